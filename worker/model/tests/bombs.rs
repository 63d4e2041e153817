//! Pictures of a few hundred bytes that claim to be huge are refused by their header, in no memory (and in no time, which is
//! printed). One test, so that nothing else runs in the process whose memory is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use captionfleet_model::preprocess::{DecodeLimits, decode};
use image::{DynamicImage, ImageFormat, RgbImage};

const MOST_BYTES: u64 = 64 << 20;
/// A side that every format below can claim, or nearly.
const SIDE: u16 = 65_500;

fn committed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let checksum = crc32fast::hash(&header);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend_from_slice(&header);
    png.extend_from_slice(&checksum.to_be_bytes());
    png.extend_from_slice(b"\0\0\0\x08IDAT\x78\x9c\x03\0\0\0\0\x01");
    png
}

/// A real JPEG, of the kind that `frame` tells, that claims another size.
fn jpeg(name: &str, frame: u8) -> Vec<u8> {
    let mut jpeg = committed(name);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, frame]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&SIDE.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&SIDE.to_be_bytes());
    jpeg
}

/// The canvas and the frame on it.
fn gif() -> Vec<u8> {
    let mut gif = committed("gif_45x31.gif");
    let frame = gif.windows(10).position(|bytes| bytes[0] == b',' && bytes[5..9] == [45, 0, 31, 0]).unwrap();
    for at in [6, 8, frame + 5, frame + 7] {
        gif[at..at + 2].copy_from_slice(&SIDE.to_le_bytes());
    }
    gif
}

/// Nearly as large as the lossless format can say: 16,383 a side.
fn webp() -> Vec<u8> {
    let mut webp = committed("webp_45x31_lossless.webp");
    let bits = webp.windows(4).position(|kind| kind == b"VP8L").unwrap() + 9;
    let rest = u32::from_le_bytes(webp[bits..bits + 4].try_into().unwrap()) & 0xf000_0000;
    webp[bits..bits + 4].copy_from_slice(&(rest | (0x3ffe << 14) | 0x3ffe).to_le_bytes());
    webp
}

fn bmp() -> Vec<u8> {
    let mut bmp = committed("bmp_45x31_RGB.bmp");
    for at in [18, 22] {
        bmp[at..at + 4].copy_from_slice(&u32::from(SIDE).to_le_bytes());
    }
    bmp
}

/// Both sizes in the first directory, wherever it lies, and as many rows in its only strip.
fn tiff() -> Vec<u8> {
    let mut tiff = committed("tiff_45x31_RGB_tiff_lzw.tif");
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(tiff[directory..directory + 2].try_into().unwrap()));
    for at in (0..entries).map(|entry| directory + 2 + 12 * entry) {
        let tag = u16::from_le_bytes(tiff[at..at + 2].try_into().unwrap());
        if [256, 257, 278].contains(&tag) {
            // One LONG.
            tiff[at + 2..at + 8].copy_from_slice(&[4, 0, 1, 0, 0, 0]);
            tiff[at + 8..at + 12].copy_from_slice(&u32::from(SIDE).to_le_bytes());
        }
    }
    tiff
}

/// One picture, a PNG that is larger than the directory says.
fn icon() -> Vec<u8> {
    let png = png(50_000, 50_000);
    let mut icon = vec![0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 32, 0];
    icon.extend_from_slice(&(png.len() as u32).to_le_bytes());
    icon.extend_from_slice(&22_u32.to_le_bytes());
    [icon, png].concat()
}

/// What `/proc/self/status` says in kB, as bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The most memory that `work` had at a time beyond what there was before: pages that were touched, whoever allocated them.
fn most_memory(work: impl FnOnce()) -> u64 {
    let before = status("VmRSS");
    // Begins the peak anew. Where that is not allowed it is that of all that was measured before, which is no less.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    work();
    status("VmHWM").saturating_sub(before)
}

#[test]
#[cfg(target_os = "linux")]
fn a_header_is_judged_in_no_memory() {
    let bombs = [
        ("JPEG 65,500 x 65,500", jpeg("jpeg_named.png", 0xc0)),
        ("progressive JPEG 65,500 x 65,500", jpeg("jpeg_48x33_q75_s2_p.jpg", 0xc2)),
        ("PNG 50,000 x 50,000", png(50_000, 50_000)),
        ("PNG 2,147,483,647 x 1", png(i32::MAX as u32, 1)),
        ("GIF 65,500 x 65,500", gif()),
        ("WebP 16,383 x 16,383", webp()),
        ("BMP 65,500 x 65,500", bmp()),
        ("TIFF 65,500 x 65,500", tiff()),
        ("icon with a PNG 50,000 x 50,000", icon()),
        ("PNM 50,000 x 50,000", b"P6 50000 50000 255\n\0\0\0".to_vec()),
    ];
    let refuse = |bytes: &[u8]| decode(bytes, &DecodeLimits::default()).err().map(|error| error.code());
    println!("picture | bytes | ms | MiB");
    let mut wrong = Vec::new();
    for (name, bytes) in &bombs {
        let mut code = None;
        let memory = most_memory(|| code = refuse(bytes));
        // The quickest of several: others use the machine, too.
        let time = (0..5)
            .map(|_| {
                let since = Instant::now();
                refuse(bytes);
                since.elapsed()
            })
            .min()
            .unwrap();
        let (ms, mib) = (time.as_secs_f64() * 1e3, memory as f64 / f64::from(1 << 20));
        println!("{name} | {} | {ms:.3} | {mib:.2}", bytes.len());
        if code != Some("too_many_pixels") || memory >= MOST_BYTES {
            wrong.push(format!("{name}: {code:?}, {ms:.3} ms, {mib:.2} MiB"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The measure sees what a picture takes that is not refused.
    let mut large = std::io::Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(6000, 6000)).write_to(&mut large, ImageFormat::Png).unwrap();
    let memory = most_memory(|| drop(decode(large.get_ref(), &DecodeLimits::default()).unwrap()));
    assert!(memory > 6000 * 6000 * 3 - (8 << 20), "{memory} bytes for 6,000 x 6,000 pixels");
}
