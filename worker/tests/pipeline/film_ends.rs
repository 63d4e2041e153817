//! Films whose frames and clocks are uneven: where they end, and that nothing of them is passed over.

use std::path::Path;

use captionfleet_proto::job::{JobItem, SampleBy, Sampling};
use captionfleet_proto::rows::Status;

use crate::bench::{Bench, verdicts};
use crate::film::{every, ffmpeg, segment, test_film, times};
use crate::videos::{assert_gapless, rows_of, spans};

const KEYS: Sampling = Sampling { by: SampleBy::Keyframes, min_change: 0.0 };

/// The film as one segment, and cut after a minute.
fn whole_and_cut(path: &Path, sampling: Sampling) -> [(&'static str, Vec<JobItem>); 2] {
    let cut = vec![segment(path, 0, Some(60_000), sampling), segment(path, 60_000, None, sampling)];
    [("whole", vec![segment(path, 0, None, sampling)]), ("cut", cut)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_last_group_of_pictures_is_no_damage() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    let encoder =
        |distance: &'static str| ["-c:v", "libx264", "-preset", "ultrafast", "-g", distance, "-bf", "0"];
    test_film(&file("one.mp4"), 25, 8, &encoder("250"));
    let rows = rows_of(&bench, "one", vec![segment(&file("one.mp4"), 0, None, KEYS)]).await;
    assert_eq!((spans(&rows), verdicts(&rows)), (vec![(0, 8000)], vec!["ok".to_owned()]));
    // One key frame lies behind the cut, or none.
    for (name, distance, expected) in [
        ("far.mp4", "1500", vec![(0, 60_000), (60_000, 10_000)]),
        ("none.mkv", "1000", vec![(0, 40_000), (40_000, 30_000)]),
    ] {
        test_film(&file(name), 25, 70, &[&encoder(distance)[..], &["-sc_threshold", "0"]].concat());
        for (way, items) in whole_and_cut(&file(name), KEYS) {
            let rows = rows_of(&bench, &format!("{way}-{name}"), items).await;
            assert_eq!(spans(&rows), expected, "{way} {name}: {:?}", verdicts(&rows));
            assert!(rows.iter().all(|row| row.status == Status::Ok), "{way} {name}: {:?}", verdicts(&rows));
            assert_gapless(&rows, 70_000);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_frame_that_is_shown_for_long_is_no_damage() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    test_film(&file("short.mp4"), 25, 5, &["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0"]);
    // 10 s in the 12,800ths of a second that this container counts.
    let longer = "setts=duration=if(gte(N\\,124)\\,128000\\,DURATION)";
    let short = file("short.mp4");
    ffmpeg(&["-i", short.to_str().unwrap(), "-c", "copy", "-bsf:v", longer], &file("held.mp4"));
    let held = file("held.mp4");
    // This container says when the film ends, and not how long a frame lasts.
    ffmpeg(&["-i", held.to_str().unwrap(), "-c", "copy"], &file("held.mkv"));
    for name in ["held.mp4", "held.mkv"] {
        let rows = rows_of(&bench, name, vec![segment(&file(name), 0, None, every(1000, 0.0))]).await;
        assert_eq!(verdicts(&rows), ["ok"; 5], "{name}: {:?}", spans(&rows));
        let end = rows.last().map(|row| row.frame_ms.unwrap() + row.span_ms.unwrap());
        assert!(end.is_some_and(|end| end.abs_diff(15_000) <= 40), "{name}: {:?}", spans(&rows));
        assert_gapless(&rows, end.unwrap());
    }
    // One that is cut off says so.
    let whole = std::fs::read(file("held.mkv")).unwrap();
    std::fs::write(file("cut.mkv"), &whole[..whole.len() / 2]).unwrap();
    let rows = rows_of(&bench, "cut", vec![segment(&file("cut.mkv"), 0, None, every(1000, 0.0))]).await;
    assert_eq!(
        rows.last().and_then(|row| row.error_code.as_deref()),
        Some("truncated"),
        "{:?}",
        spans(&rows)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_a_film_is_all_of_its_frames() {
    let bench = Bench::new().await;
    for (rate, every_us, name) in [
        ("24", 41_666, "24.mp4"),
        ("24", 41_666, "24.mkv"),
        ("25", 40_000, "25.mp4"),
        ("30", 33_333, "30.mp4"),
        ("60", 16_666, "60.mp4"),
        ("30000/1001", 33_366, "ntsc.mp4"),
    ] {
        let path = bench.folder.path().join(name);
        let source = format!("testsrc2=size=64x48:rate={rate}:duration=64");
        let encoder = ["-c:v", "libx264", "-preset", "ultrafast"];
        ffmpeg(&[&["-f", "lavfi", "-i", &source][..], &encoder].concat(), &path);
        // All frames are looked at, and hardly any of them is captioned.
        let sampling = Sampling { by: SampleBy::Interval { every_us }, min_change: 1.0 };
        for (way, items) in whole_and_cut(&path, sampling) {
            let rows = rows_of(&bench, &format!("{way}-{name}"), items).await;
            let seen: u32 = rows.iter().filter_map(|row| row.frames).sum();
            assert_eq!(seen as usize, times(&path).len(), "{way} {name}: {:?}", spans(&rows));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_is_told() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    test_film(&file("long.mpg"), 25, 8, &["-c:v", "mpeg2video"]);
    test_film(&file("short.mpg"), 25, 4, &["-c:v", "mpeg2video"]);
    for (name, parts) in
        [("twice.mpg", ["long.mpg", "long.mpg"]), ("and a short one.mpg", ["long.mpg", "short.mpg"])]
    {
        let joined = parts.map(|part| std::fs::read(file(part)).unwrap()).concat();
        std::fs::write(file(name), joined).unwrap();
        let job = name.replace(' ', "-");
        let rows = rows_of(&bench, &job, vec![segment(&file(name), 0, None, every(1000, 0.0))]).await;
        let (last, before) = rows.split_last().unwrap();
        assert_eq!(last.error_code.as_deref(), Some("corrupt"), "{name}: {:?}", verdicts(&rows));
        let message = last.error_message.as_deref().unwrap();
        assert!(message.contains("the clock goes back from"), "{name}: {message}");
        assert!(before.iter().all(|row| row.status == Status::Ok), "{name}: {:?}", verdicts(&rows));
        assert_eq!(before.len(), 8, "{name}: {:?}", spans(&rows));
        assert_gapless(&rows, last.frame_ms.unwrap() + last.span_ms.unwrap());
    }
}
