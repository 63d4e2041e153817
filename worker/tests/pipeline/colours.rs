//! The pixels of films: those that ffmpeg makes of them, however they are stored.

use std::path::Path;
use std::process::Command;

use captionfleet_proto::job::Sampling;
use captionfleet_worker::video::{Approach, Decoding, Pixels, Span, VideoLimits, probe};

use crate::film::ffmpeg;

/// The first frame as ffmpeg turns it into red, green and blue by these options of its scaler.
fn converted(path: &Path, options: &str) -> Vec<u8> {
    let told = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(path)
        .args(["-vf", &format!("scale=flags=accurate_rnd+full_chroma_int+{options},format=rgb24")])
        .args(["-frames:v", "1", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    told.stdout
}

async fn first_frame(path: &Path) -> (Vec<u8>, Pixels) {
    let limits = VideoLimits::default();
    let film = probe(path, &limits).await.unwrap();
    let (span, sampling) = (Span { start_ms: 0, end_ms: None }, Sampling::default());
    let approach = Approach { from_ms: 0, strict: true };
    let mut decoding = Decoding::start(path, &film, span, &sampling, approach, &limits).unwrap();
    (decoding.next().await.unwrap().unwrap().into_rgb(), film.pixels)
}

/// How a film's colours are stored.
#[derive(Clone, Copy)]
enum Stored {
    /// Where the shared ones lie: on the left pixel, or between two.
    Left,
    Between,
    /// Each pixel has its own.
    Own,
    /// Not in planes that we read.
    Otherwise,
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_have_the_colours_that_ffmpeg_gives_them() {
    use Stored::{Between, Left, Otherwise, Own};
    let folder = tempfile::tempdir().unwrap();
    // Coloured shapes with sharp borders.
    let source = ["-f", "lavfi", "-i", "testsrc2=size=172x120:rate=1:duration=1"];
    for (name, stored, encoder) in [
        ("plain.mp4", Left, &["-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p"][..]),
        ("broad.mp4", Left, &["-c:v", "libx264", "-pix_fmt", "yuv422p", "-colorspace", "bt709"]),
        ("all.mp4", Own, &["-c:v", "libx264", "-pix_fmt", "yuv444p", "-colorspace", "smpte170m"]),
        ("new.mp4", Left, &["-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-colorspace", "bt2020nc"]),
        ("full.mp4", Left, &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-color_range", "pc"]),
        ("deep.mkv", Own, &["-c:v", "ffv1", "-pix_fmt", "yuv444p16le", "-color_range", "pc"]),
        ("motion.avi", Between, &["-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"]),
        ("old.mpg", Between, &["-c:v", "mpeg1video", "-q:v", "2", "-r", "25"]),
        ("red.mkv", Otherwise, &["-c:v", "ffv1", "-pix_fmt", "bgr0"]),
        ("seen through.mov", Otherwise, &["-c:v", "png", "-pix_fmt", "rgba"]),
        ("without.mkv", Otherwise, &["-c:v", "ffv1", "-pix_fmt", "gray"]),
        ("rare.mkv", Otherwise, &["-c:v", "ffv1", "-pix_fmt", "yuv411p"]),
    ] {
        let path = folder.path().join(name);
        ffmpeg(&[&source[..], encoder].concat(), &path);
        let (told, pixels) = first_frame(&path).await;
        let is_planar = !matches!(stored, Otherwise);
        assert_eq!(matches!(pixels, Pixels::Planar(_)), is_planar, "{name}: {pixels:?}");
        // It puts colours that two rows share on one of both. Between them is between what it makes of either.
        let above = match stored {
            Left => "bilinear:in_h_chr_pos=0",
            Between | Own => "bilinear",
            Otherwise => "bicubic",
        };
        let below =
            if pixels_share_rows(encoder) { format!("{above}:in_v_chr_pos=0") } else { above.to_owned() };
        let [above, below] = [above, &below].map(|options| converted(&path, options));
        assert_eq!((told.len(), below.len()), (above.len(), above.len()), "{name}");
        for (at, told) in told.iter().enumerate() {
            let (least, most) = (above[at].min(below[at]), above[at].max(below[at]));
            let may_be = least.saturating_sub(4)..=most.saturating_add(4);
            assert!(may_be.contains(told), "{name}: {told} at {at}, not {least} to {most}; {pixels:?}");
        }
        let off = |at: usize| (f64::from(told[at]) - f64::midpoint(above[at].into(), below[at].into())).abs();
        let mean = (0..told.len()).map(off).sum::<f64>() / told.len() as f64;
        assert!(mean < 1.0, "{name}: {mean} on average; {pixels:?}");
    }
}

/// Whether two rows share their colours, which is how films are stored unless they are said to be otherwise.
fn pixels_share_rows(encoder: &[&str]) -> bool {
    !encoder.contains(&"-pix_fmt") || encoder.iter().any(|option| option.contains("420p"))
}
