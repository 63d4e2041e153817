//! Videos that are broken: what is kept of them, and what is said of the rest.

use captionfleet_proto::job::Sampling;
use captionfleet_proto::rows::{Row, Status};

use crate::bench::{Bench, verdicts};
use crate::film::{damage, every, ffmpeg, segment, test_film};
use crate::videos::{assert_gapless, rows_of, spans};

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_film_is_one_failed_row() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    let source = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=9"];
    ffmpeg(&[&source[..], &["-c:v", "libx264", "-g", "10"]].concat(), &file("good.mp4"));
    let good = std::fs::read(file("good.mp4")).unwrap();
    std::fs::write(file("no moov.mp4"), &good[..good.len() / 2]).unwrap();
    std::fs::write(file("empty.mp4"), b"").unwrap();
    std::fs::write(file("words.mkv"), b"these are words and no film at all, however long they go on")
        .unwrap();
    ffmpeg(&["-f", "lavfi", "-i", "sine=duration=2", "-c:a", "aac"], &file("audio.m4v"));
    std::fs::write(file("list.m3u8"), format!("#EXTM3U\n#EXTINF:9,\n{}\n", file("good.mp4").display()))
        .unwrap();
    std::fs::write(file("list.mp4"), format!("#EXTM3U\n#EXTINF:9,\n{}\n", file("good.mp4").display()))
        .unwrap();
    std::fs::write(
        file("list.ffconcat"),
        format!("ffconcat version 1.0\nfile '{}'\n", file("good.mp4").display()),
    )
    .unwrap();
    // A codec that nobody knows: the name of the sample description is changed.
    let unknown: Vec<u8> = {
        let mut bytes = good.clone();
        let at = bytes.windows(4).position(|four| four == b"avc1").unwrap();
        let at = bytes[at + 4..].windows(4).position(|four| four == b"avc1").map_or(at, |next| at + 4 + next);
        bytes[at..at + 4].copy_from_slice(b"xyz1");
        bytes
    };
    std::fs::write(file("unknown.mp4"), unknown).unwrap();
    for (name, code) in [
        ("no moov.mp4", "truncated"),
        ("empty.mp4", "empty"),
        ("words.mkv", "corrupt"),
        ("audio.m4v", "unsupported_format"),
        ("list.m3u8", "unsupported_format"),
        ("list.mp4", "unsupported_format"),
        ("list.ffconcat", "unsupported_format"),
        ("unknown.mp4", "unsupported_format"),
        ("absent.mp4", "not_found"),
    ] {
        let job = name.replace(' ', "-");
        let rows = rows_of(&bench, &job, vec![segment(&file(name), 0, None, Sampling::default())]).await;
        let told: Vec<_> = rows.iter().map(|row| (&row.error_code, &row.error_message)).collect();
        assert_eq!(verdicts(&rows), [code], "{name}: {told:?}");
        assert_eq!((rows[0].frame_ms, rows[0].frames), (Some(0), Some(0)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_damage_is_kept() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    let source = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=10:duration=20"];
    let encoder = ["-c:v", "libx264", "-g", "10", "-movflags", "+faststart"];
    ffmpeg(&[&source[..], &encoder].concat(), &file("good.mp4"));
    let good = std::fs::read(file("good.mp4")).unwrap();
    std::fs::write(file("cut off.mp4"), &good[..good.len() / 2]).unwrap();
    let mut damaged = good.clone();
    let middle = good.len() / 2;
    damaged[middle..middle + 20_000].fill(0xa5);
    std::fs::write(file("damaged.mp4"), damaged).unwrap();
    for (name, code) in [("cut off.mp4", "truncated"), ("damaged.mp4", "corrupt")] {
        let job = name.replace(' ', "-");
        let rows = rows_of(&bench, &job, vec![segment(&file(name), 0, None, every(1000, 0.0))]).await;
        let (last, before) = rows.split_last().unwrap();
        assert!(before.len() > 5 && before.len() < 18, "{name}: {:?}", spans(&rows));
        assert!(before.iter().all(|row| row.status == Status::Ok), "{name}: {:?}", verdicts(&rows));
        assert_eq!(last.error_code.as_deref(), Some(code), "{name}: {:?}", last.error_message);
        assert!((5000..18_000).contains(&last.frame_ms.unwrap()), "{name}: {:?}", spans(&rows));
        assert_gapless(&rows, 20_000);
    }
}

/// The codes of failed rows, with their times.
fn failures(rows: &[Row]) -> Vec<(u64, u64, &str)> {
    let failed = rows.iter().filter(|row| row.status == Status::Failed);
    failed
        .map(|row| (row.frame_ms.unwrap(), row.span_ms.unwrap(), row.error_code.as_deref().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_the_rest_of_its_segment_and_no_more() {
    let bench = Bench::new().await;
    let sampling = every(2000, 0.0);
    for (name, at, expected) in [
        ("in one.mp4", &[90_000][..], &[(90_000, 30_000)][..]),
        ("in two.mp4", &[30_000, 130_000], &[(30_000, 30_000), (130_000, 50_000)]),
        ("twice in one.mp4", &[70_000, 100_000], &[(70_000, 50_000)]),
        // The segments before have all of their frames, and those behind go on where a key frame lets them.
        ("at a border.mp4", &[60_000], &[(60_000, 2000)]),
        ("before and behind a border.mp4", &[58_000, 100_000], &[(58_000, 2000), (100_000, 20_000)]),
    ] {
        let path = bench.folder.path().join(name);
        test_film(&path, 5, 180, &["-c:v", "libx264", "-preset", "ultrafast", "-g", "10"]);
        for ms in at {
            damage(&path, *ms, 500);
        }
        let cut = vec![
            segment(&path, 0, Some(60_000), sampling),
            segment(&path, 60_000, Some(60_000), sampling),
            segment(&path, 120_000, None, sampling),
        ];
        let rows = rows_of(&bench, &name.replace(' ', "-"), cut).await;
        let expected: Vec<_> = expected.iter().map(|(ms, span)| (*ms, *span, "corrupt")).collect();
        assert_eq!(failures(&rows), expected, "{name}");
        assert_gapless(&rows, 180_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_that_ends_too_early_fails_once_however_it_is_cut() {
    let bench = Bench::new().await;
    let good = bench.folder.path().join("good.mp4");
    let encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-movflags", "+faststart"];
    test_film(&good, 5, 240, &encoder);
    let bytes = std::fs::read(&good).unwrap();
    for (name, percent) in [("a.mp4", 30), ("b.mp4", 60)] {
        let path = bench.folder.path().join(name);
        std::fs::write(&path, &bytes[..bytes.len() * percent / 100]).unwrap();
        let mut cut: Vec<_> =
            (0..3).map(|minute| segment(&path, minute * 60_000, Some(60_000), every(2000, 0.0))).collect();
        cut.push(segment(&path, 180_000, None, every(2000, 0.0)));
        let rows = rows_of(&bench, name, cut).await;
        let failed = failures(&rows);
        let (ms, span, code) = failed[0];
        assert_eq!((failed.len(), ms + span, code), (1, 240_000, "truncated"), "{name}: {failed:?}");
        assert_eq!(rows.last().unwrap().status, Status::Failed, "{name}");
        assert_gapless(&rows, 240_000);
    }
}

/// Their readers find the next whole piece by themselves, and no decoder notices what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_containers_skip_are_missed() {
    let bench = Bench::new().await;
    for (name, codec) in
        [("a.webm", "libvpx"), ("b.mkv", "libx264"), ("c.flv", "libx264"), ("d.ogv", "libtheora")]
    {
        let path = bench.folder.path().join(name);
        let quality = if codec == "libtheora" { ["-q:v", "7"] } else { ["-b:v", "300k"] };
        test_film(&path, 10, 40, &[&["-c:v", codec, "-g", "20", "-bf", "0"][..], &quality].concat());
        let mut film = std::fs::read(&path).unwrap();
        let (middle, fifth) = (film.len() / 2, film.len() / 5);
        film[middle..middle + fifth].fill(0);
        std::fs::write(&path, film).unwrap();
        let rows = rows_of(&bench, name, vec![segment(&path, 0, None, every(1000, 0.0))]).await;
        let (last, before) = rows.split_last().unwrap();
        let code = last.error_code.as_deref();
        assert!(matches!(code, Some("corrupt" | "truncated")), "{name}: {:?}", spans(&rows));
        assert!(before.iter().all(|row| row.status == Status::Ok), "{name}: {:?}", verdicts(&rows));
        assert!((10..30).contains(&before.len()), "{name}: {:?}", spans(&rows));
        let end = last.frame_ms.unwrap() + last.span_ms.unwrap();
        assert!((39_000..=40_100).contains(&end), "{name}: {:?}", spans(&rows));
        assert_gapless(&rows, end);
    }
}

/// Damage that ffmpeg passes over in silence, or nearly so.
#[tokio::test(flavor = "multi_thread")]
async fn small_losses_are_noticed() {
    let bench = Bench::new().await;
    let motion = ["-c:v", "mjpeg", "-q:v", "5"];
    let windows = ["-c:v", "wmv2", "-g", "20", "-b:v", "300k"];
    for (name, encoder, bytes) in [
        ("a.avi", &motion[..], 1000),
        ("b.avi", &motion, 50_000),
        ("c.mov", &motion, 1000),
        ("d.mkv", &motion, 1000),
        ("e.wmv", &windows, 1000),
        ("f.wmv", &windows, 30_000),
    ] {
        let path = bench.folder.path().join(name);
        let source = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10:duration=40"];
        ffmpeg(&[&source[..], encoder].concat(), &path);
        let whole = vec![segment(&path, 0, None, every(1000, 0.0))];
        let whole = rows_of(&bench, &format!("{name}-whole"), whole).await;
        assert_eq!(verdicts(&whole), ["ok"; 40], "{name}");
        let mut film = std::fs::read(&path).unwrap();
        let middle = film.len() / 2;
        film[middle..middle + bytes].fill(0);
        std::fs::write(&path, film).unwrap();
        let rows = rows_of(&bench, name, vec![segment(&path, 0, None, every(1000, 0.0))]).await;
        let [(ms, span, "corrupt")] = failures(&rows)[..] else { panic!("{name}: {:?}", verdicts(&rows)) };
        assert!((15_000..25_000).contains(&ms), "{name}: {:?}", spans(&rows));
        assert_eq!((rows.last().unwrap().frame_ms, ms + span), (Some(ms), 40_000), "{name}");
        assert_gapless(&rows, 40_000);
    }
}

/// Its length is that of what is left.
#[tokio::test(flavor = "multi_thread")]
async fn an_ogg_file_that_is_cut_off_says_so() {
    let bench = Bench::new().await;
    let whole = bench.folder.path().join("whole.ogv");
    let sound = ["-f", "lavfi", "-i", "sine=duration=40", "-c:a", "libvorbis"];
    test_film(&whole, 10, 40, &[&sound[..], &["-c:v", "libtheora", "-g", "20", "-q:v", "7"]].concat());
    let bytes = std::fs::read(&whole).unwrap();
    for (name, percent) in [("half.ogv", 50), ("most.ogv", 90)] {
        let path = bench.folder.path().join(name);
        std::fs::write(&path, &bytes[..bytes.len() * percent / 100]).unwrap();
        let rows = rows_of(&bench, name, vec![segment(&path, 0, None, every(1000, 0.0))]).await;
        let (last, before) = rows.split_last().unwrap();
        assert_eq!(last.error_code.as_deref(), Some("truncated"), "{name}: {:?}", spans(&rows));
        assert!(before.iter().all(|row| row.status == Status::Ok), "{name}: {:?}", verdicts(&rows));
        let expected = 400 * percent as u64;
        assert!(last.frame_ms.unwrap().abs_diff(expected) < 3000, "{name}: {:?}", spans(&rows));
        assert_gapless(&rows, last.frame_ms.unwrap() + last.span_ms.unwrap());
    }
    let rows = rows_of(&bench, "whole", vec![segment(&whole, 0, None, every(1000, 0.0))]).await;
    assert_eq!(verdicts(&rows), ["ok"; 40]);
}
