//! Videos: what their rows say, when, and what becomes of the broken ones.

use captionfleet_proto::job::{JobItem, Lane, SampleBy, Sampling};
use captionfleet_proto::rows::{Row, Status};
use captionfleet_world::{Verdict, check_caption};

use crate::bench::{Bench, verdicts};
use crate::film::{Film, every, ffmpeg, segment, test_film, times};

pub(crate) async fn rows_of(bench: &Bench, job: &str, items: Vec<JobItem>) -> Vec<Row> {
    bench.publish(Lane::Bulk, &bench.job(job, items)).await;
    let worker = bench.start();
    let outcome = bench.outcome().await;
    worker.stop().await;
    let rows = bench.rows(job);
    let (seen, kept) = outcome.frames.map_or((0, 0), |frames| (frames.seen, frames.kept));
    let counted = |row: &Row| u64::from(row.frames.unwrap_or(0));
    assert_eq!(seen, rows.iter().map(counted).sum::<u64>());
    assert_eq!(kept, rows.iter().filter(|row| counted(row) > 0).count() as u64);
    rows
}

pub(crate) fn spans(rows: &[Row]) -> Vec<(u64, u64)> {
    rows.iter().map(|row| (row.frame_ms.unwrap(), row.span_ms.unwrap())).collect()
}

pub(crate) fn assert_gapless(rows: &[Row], end_ms: u64) {
    let mut at = 0;
    for (start, span) in spans(rows) {
        assert_eq!(start, at, "{:?}", spans(rows));
        at = start + span;
    }
    assert_eq!(at, end_ms, "{:?}", spans(rows));
}

fn assert_true(film: &Film, rows: &[Row]) {
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| {
            let scene = film.scene_at(row.frame_ms.unwrap());
            check_caption(row.caption.as_deref().unwrap_or_default(), &scene) != Verdict::Correct
        })
        .map(|row| (row.frame_ms, row.caption.clone()))
        .collect();
    assert!(wrong.len() * 10 <= rows.len(), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scene_is_a_row_for_as_long_as_it_is_seen() {
    let bench = Bench::new().await;
    let film = Film::of_scenes(&bench, "three scenes.mp4", &[43, 43, 43]);
    let rows = rows_of(&bench, "job-1", vec![film.segment(0, None, Sampling::default())]).await;
    assert_eq!(spans(&rows), [(0, 5000), (5000, 4000), (9000, 3900)]);
    assert_eq!(rows.iter().map(|row| row.frames).collect::<Vec<_>>(), [Some(5), Some(4), Some(4)]);
    assert!(rows.iter().all(|row| row.status == Status::Ok && row.embedding.is_some() && row.etag.is_some()));
    assert_eq!((rows[0].width, rows[0].height), (Some(160), Some(120)));
    assert_true(&film, &rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_film_has_the_rows_of_an_uncut_one() {
    let bench = Bench::new().await;
    let film = Film::of_scenes(&bench, "long.mkv", &[68; 20]);
    for (name, sampling) in [
        ("every", every(700, 0.04)),
        ("scenes", Sampling { by: SampleBy::Scenes { cut: 0.02 }, min_change: 0.04 }),
        ("keys", Sampling { by: SampleBy::Keyframes, min_change: 0.0 }),
    ] {
        let whole = rows_of(&bench, &format!("{name}-whole"), vec![film.segment(0, None, sampling)]).await;
        let cut = vec![
            film.segment(0, Some(60_000), sampling),
            film.segment(60_000, Some(60_000), sampling),
            film.segment(120_000, None, sampling),
        ];
        let cut = rows_of(&bench, &format!("{name}-cut"), cut).await;
        assert_gapless(&whole, 136_000);
        let said = |rows: &[Row]| {
            let said = |row: &Row| (row.frame_ms, row.span_ms, row.frames, row.caption.clone());
            rows.iter().map(said).collect::<Vec<_>>()
        };
        assert_eq!(said(&cut), said(&whole), "{name}");
        assert_eq!(
            cut.iter().map(|row| &row.embedding).collect::<Vec<_>>(),
            whole.iter().map(|row| &row.embedding).collect::<Vec<_>>()
        );
        assert!(whole.len() >= 20, "{name}: {:?}", spans(&whole));
        assert_true(&film, &whole);
    }
}

/// Containers without an index are entered anywhere, and key frames may be further apart than that.
#[tokio::test(flavor = "multi_thread")]
async fn key_frames_may_be_far_from_where_a_film_is_cut() {
    let bench = Bench::new().await;
    for (name, codec) in [
        ("a.ts", "libx264"),
        ("b.mpg", "mpeg2video"),
        ("c.avi", "mpeg4"),
        ("d.wmv", "wmv2"),
        ("e.ogv", "libtheora"),
    ] {
        let path = bench.folder.path().join(name);
        // A rate that MPEG-2 knows.
        test_film(&path, 25, 64, &["-c:v", codec, "-g", "83"]);
        for (by, sampling) in [
            ("every", every(2000, 0.0)),
            ("scenes", Sampling { by: SampleBy::Scenes { cut: 0.5 }, min_change: 0.0 }),
            ("keys", Sampling { by: SampleBy::Keyframes, min_change: 0.0 }),
        ] {
            let whole = vec![segment(&path, 0, None, sampling)];
            let whole = rows_of(&bench, &format!("{by}-{name}-whole"), whole).await;
            let cut = vec![segment(&path, 0, Some(60_000), sampling), segment(&path, 60_000, None, sampling)];
            let cut = rows_of(&bench, &format!("{by}-{name}-cut"), cut).await;
            assert_eq!(spans(&cut), spans(&whole), "{by} of {name}");
            assert_eq!(
                cut.iter().map(|row| &row.embedding).collect::<Vec<_>>(),
                whole.iter().map(|row| &row.embedding).collect::<Vec<_>>(),
                "{by} of {name}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scenes_begin_on_their_own_frame() {
    let bench = Bench::new().await;
    let film = Film::of_scenes(&bench, "cuts.mp4", &[43, 17, 31]);
    let sampling = Sampling { by: SampleBy::Scenes { cut: 0.02 }, min_change: 0.0 };
    let rows = rows_of(&bench, "job-1", vec![film.segment(0, None, sampling)]).await;
    assert_eq!(spans(&rows), [(0, 4300), (4300, 1700), (6000, 3100)]);
    assert_true(&film, &rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_those_of_ffprobe() {
    let bench = Bench::new().await;
    let source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=30000/1001:duration=8"];
    // Frames are left out unevenly.
    let uneven = ["-vf", "select='not(mod(n\\,7))+not(mod(n\\,11))'", "-fps_mode", "vfr"];
    for name in ["a.mp4", "b.mkv", "c.avi", "d.webm", "e.mov"] {
        let path = bench.folder.path().join(name);
        let encoder: &[&str] = match name {
            "c.avi" => &["-c:v", "mpeg4", "-g", "20"],
            "d.webm" => &["-c:v", "libvpx", "-g", "20"],
            _ => &["-c:v", "libx264", "-g", "20"],
        };
        let vfr: &[&str] = if name == "c.avi" { &[] } else { &uneven };
        ffmpeg(&[&source[..], vfr, encoder].concat(), &path);
        let expected = times(&path);
        let all = rows_of(&bench, &format!("all-{name}"), vec![segment(&path, 0, None, every(1, 0.0))]).await;
        let told: Vec<_> = all.iter().map(|row| row.frame_ms.unwrap()).collect();
        assert_eq!(told, expected.iter().map(|(ms, _)| *ms).collect::<Vec<_>>(), "{name}");
        let keys = Sampling { by: SampleBy::Keyframes, min_change: 0.0 };
        let keys = rows_of(&bench, &format!("keys-{name}"), vec![segment(&path, 0, None, keys)]).await;
        let told: Vec<_> = keys.iter().map(|row| row.frame_ms.unwrap()).collect();
        assert_eq!(
            told,
            expected.iter().filter(|(_, key)| *key).map(|(ms, _)| *ms).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_film_costs_a_frame_a_minute() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("still.mp4");
    let source = ["-f", "lavfi", "-i", "smptebars=size=320x240:rate=5:duration=600"];
    ffmpeg(&[&source[..], &["-c:v", "libx264", "-preset", "ultrafast"]].concat(), &path);
    let rows = rows_of(&bench, "job-1", vec![segment(&path, 0, None, Sampling::default())]).await;
    assert_gapless(&rows, 600_000);
    assert_eq!(rows.iter().map(|row| row.frames).collect::<Vec<_>>(), [Some(60); 10]);
}

/// Of a still film with noise at most a twentieth of the frames is captioned; that the noise is there shows where far less of
/// a change counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_noisy_still_film_costs_few_frames() {
    let bench = Bench::new().await;
    let path = bench.folder.path().join("noisy.mp4");
    let source = ["-f", "lavfi", "-i", "smptebars=size=320x240:rate=2:duration=60,noise=alls=30:allf=t"];
    ffmpeg(&[&source[..], &["-c:v", "libx264", "-preset", "ultrafast", "-crf", "20"]].concat(), &path);
    let rows = rows_of(&bench, "default", vec![segment(&path, 0, None, Sampling::default())]).await;
    assert_gapless(&rows, 60_000);
    assert_eq!(rows.iter().filter_map(|row| row.frames).sum::<u32>(), 60);
    assert!((1..=3).contains(&rows.len()), "{:?}", spans(&rows));
    let rows = rows_of(&bench, "strict", vec![segment(&path, 0, None, every(1000, 0.0005))]).await;
    assert!(rows.len() > 50, "{:?}", spans(&rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_does_not_wait_for_the_rest_of_the_film() {
    let mut bench = Bench::new().await;
    // Far more frames behind the segment than any pipe holds, and no time for a decoder that hangs.
    bench.options.item_deadline = std::time::Duration::from_secs(20);
    let path = bench.folder.path().join("still.mp4");
    let source = ["-f", "lavfi", "-i", "smptebars=size=320x240:rate=10:duration=1200"];
    ffmpeg(&[&source[..], &["-c:v", "libx264", "-preset", "ultrafast"]].concat(), &path);
    for (job, start, every_ms) in [("often", 60_000, 1000), ("seldom", 0, 59_000)] {
        let item = segment(&path, start, Some(60_000), every(every_ms, 0.0));
        let rows = rows_of(&bench, job, vec![item]).await;
        assert_eq!(verdicts(&rows), vec!["ok"; (60_000_u64.div_ceil(every_ms)) as usize], "{job}");
        assert_eq!(rows.last().map(|row| row.frame_ms.unwrap() + row.span_ms.unwrap()), Some(start + 60_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_films_are_shown_as_players_show_them() {
    let bench = Bench::new().await;
    let file = |name: &str| bench.folder.path().join(name);
    let (plain, cover) = (file("plain.mp4"), file("cover.png"));
    test_film(&plain, 10, 5, &["-c:v", "libx264", "-g", "10"]);
    ffmpeg(&["-f", "lavfi", "-i", "testsrc=size=32x32", "-frames:v", "1"], &cover);
    let (from, cover) = (["-i", plain.to_str().unwrap()], ["-i", cover.to_str().unwrap()]);
    let copied = |name: &str, before: &[&str], after: &[&str]| {
        ffmpeg(&[before, &from, &["-c", "copy"], after].concat(), &file(name));
    };
    copied("cut in an edit list.mp4", &["-ss", "2.35"], &[]);
    copied("before its clock.mkv", &[], &["-output_ts_offset", "-1.5", "-avoid_negative_ts", "disabled"]);
    copied("late.mp4", &[], &["-output_ts_offset", "3"]);
    let order = ["-map", "0", "-map", "1", "-disposition:v:0", "attached_pic"];
    copied("a cover first.mp4", &cover, &order);
    copied("a 'quoted' \"name\"\n#1?%41 [pipe:0].mp4", &[], &[]);
    test_film(&file("a moment.mp4"), 25, 1, &["-frames:v", "3"]);
    test_film(&file("fast.mp4"), 1000, 2, &["-c:v", "libx264", "-preset", "ultrafast"]);
    test_film(&file("interlaced.mpg"), 25, 2, &["-c:v", "mpeg2video", "-flags", "+ildct+ilme"]);
    test_film(&file("deep.mp4"), 10, 2, &["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]);
    test_film(&file("clear.mov"), 10, 2, &["-c:v", "png", "-pix_fmt", "rgba"]);
    // A clock of 33 bits at 90 kHz begins anew after 95,443.7 s.
    let clock = ["-c:v", "libx264", "-muxdelay", "0", "-output_ts_offset", "95442"];
    test_film(&file("past the end of its clock.ts"), 10, 4, &clock);
    let seconds = |count: u64| (0..count).map(|second| (second * 1000, 1000)).collect::<Vec<_>>();
    for (name, expected) in [
        ("cut in an edit list.mp4", [seconds(2), vec![(2000, 650)]].concat()),
        ("before its clock.mkv", [seconds(3), vec![(3000, 500)]].concat()),
        ("late.mp4", [vec![(0, 3000)], seconds(8).split_off(3)].concat()),
        ("a cover first.mp4", seconds(5)),
        ("a 'quoted' \"name\"\n#1?%41 [pipe:0].mp4", seconds(5)),
        ("a moment.mp4", vec![(0, 120)]),
        ("fast.mp4", seconds(2)),
        ("interlaced.mpg", seconds(2)),
        ("deep.mp4", seconds(2)),
        ("clear.mov", seconds(2)),
        ("past the end of its clock.ts", seconds(4)),
    ] {
        let job = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let rows = rows_of(&bench, &job, vec![segment(&file(name), 0, None, every(1000, 0.0))]).await;
        assert_eq!(spans(&rows), expected, "{name}: {:?}", verdicts(&rows));
        let status = if name == "late.mp4" { Status::Skipped } else { Status::Ok };
        assert_eq!(rows[0].status, status, "{name}: {:?}", verdicts(&rows));
        assert!(rows[1..].iter().all(|row| row.status == Status::Ok), "{name}: {:?}", verdicts(&rows));
        assert_eq!((rows[0].width, rows[0].height), (Some(64), Some(48)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn films_of_any_shape_are_shown_upright() {
    let bench = Bench::new().await;
    let film = Film::of_scenes(&bench, "upright.mp4", &[10]);
    let turned = bench.folder.path().join("turned.mp4");
    let upright = film.path.to_str().unwrap();
    // Stored lying on its side, with the note that players shall turn it back.
    let lying = bench.folder.path().join("lying.mp4");
    ffmpeg(
        &["-i", upright, "-vf", "transpose=clock", "-c:v", "libx264", "-crf", "4", "-pix_fmt", "yuv444p"],
        &lying,
    );
    ffmpeg(&["-i", lying.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90"], &turned);
    let rows = rows_of(&bench, "turned", vec![segment(&turned, 0, None, Sampling::default())]).await;
    assert_eq!((rows[0].width, rows[0].height), (Some(160), Some(120)), "{:?}", verdicts(&rows));
    assert_true(&film, &rows);
    for (name, size) in [("odd.mkv", "37x23"), ("dot.mkv", "1x1"), ("wide.mkv", "4000x2")] {
        let path = bench.folder.path().join(name);
        let source = format!("testsrc=size={size}:rate=1:duration=1");
        ffmpeg(&["-f", "lavfi", "-i", &source, "-c:v", "ffv1"], &path);
        let rows = rows_of(&bench, name, vec![segment(&path, 0, None, Sampling::default())]).await;
        let shown = rows[0].width.zip(rows[0].height).map(|(width, height)| format!("{width}x{height}"));
        assert_eq!((rows.len(), rows[0].status, shown.as_deref()), (1, Status::Ok, Some(size)));
    }
}
