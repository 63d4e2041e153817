//! Films from the command line: counted, resumed, verified, found again, and said to players.

use crate::desk::Desk;
use captionfleet_world::film::of_scenes;
use captionfleet_world::{Scene, Split};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A film of scenes, each for four seconds.
fn film(desk: &Desk, name: &str, scenes: u64, seed: u64) {
    let drawn = desk.root().join(format!("frames of {}", name.replace('.', " ")));
    std::fs::create_dir_all(desk.pictures()).unwrap();
    let scenes = (0..scenes).map(|number| Scene::sample(1000 * seed + number, Split::Train));
    of_scenes(scenes, 4, &drawn, &desk.pictures().join(name)).unwrap();
}

fn parts(desk: &Desk) -> Vec<PathBuf> {
    let runs = std::fs::read_dir(desk.archive().join("parts")).unwrap();
    let mut parts: Vec<_> = runs
        .flat_map(|run| std::fs::read_dir(run.unwrap().path()).unwrap())
        .map(|part| part.unwrap().path())
        .collect();
    parts.sort();
    parts
}

#[test]
fn a_film_is_captioned_verified_and_found_among_pictures() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 3, 7);
    film(&desk, "a film.mp4", 34, 1);
    let planned = desk.run(["plan", "pictures", "--archive", "archive", "--json"]).json();
    assert_eq!(
        (&planned["videos"]["new"], &planned["videos"]["frames"]),
        (&1.into(), &136.into()),
        "{planned}"
    );
    let guess = planned["videos"]["frames_kept"].as_u64().unwrap();
    assert!((30..=40).contains(&guess), "{planned}");
    let report = desk.caption(&["--job-size", "30", "--thumbnails"]).json();
    let frames = &report["frames"];
    assert_eq!(report["complete"], true, "{report}");
    assert_eq!(frames["seen"], 136, "{report}");
    let kept = frames["kept"].as_u64().unwrap();
    assert!((34..=37).contains(&kept), "{report}");
    assert_eq!(report["ok"].as_u64().unwrap(), 3 + kept);
    let verified = desk.verify().json();
    // Three pictures, and three segments of at most a minute.
    assert_eq!((&verified["whole"], &verified["runs"][0]["items"]), (&true.into(), &6.into()), "{verified}");

    let tracks = report["tracks"][0].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    let mut files: Vec<_> = std::fs::read_dir(tracks.replace("%20", " "))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vtt"))
        .collect();
    files.sort_by_key(|path| path.as_os_str().len());
    let captions = std::fs::read_to_string(&files[0]).unwrap();
    assert!(captions.starts_with("WEBVTT\n"), "{captions}");
    assert!((25..=37).contains(&captions.matches(" --> ").count()), "{captions}");
    let chapters = std::fs::read_to_string(&files[1]).unwrap();
    assert!((25..=37).contains(&chapters.matches(" --> ").count()), "{chapters}");
    let found = desk.run(["tracks", "--archive", "archive", "--srt", "--json"]).json();
    assert_eq!(found[0]["videos"], 1);
    assert!(files[0].with_extension("srt").exists());

    let hits = desk.run(["search", "a red circle", "--archive", "archive", "--json", "-k", "50"]).json();
    let in_film = hits["hits"].as_array().unwrap().iter().filter(|hit| hit["frame_ms"].is_u64()).count();
    assert_eq!(in_film as u64, kept, "{hits}");

    let shown = desk.run(["search", "a red circle", "--archive", "archive", "--json", "--thumbnails"]).json();
    for hit in shown["hits"].as_array().unwrap().iter().filter(|hit| hit["frame_ms"].is_u64()) {
        let path = hit["thumbnail"].as_str().unwrap().strip_prefix("file://").unwrap();
        assert!(std::fs::read(path).unwrap().starts_with(&[0xff, 0xd8]), "{hit}");
    }

    let again = desk.caption(&["--job-size", "30"]).json();
    assert_eq!((&again["already_done"], again["runs"].as_array().unwrap().len()), (&4.into(), 0), "{again}");
    // Whoever asked left before the run was complete, and nobody has told players.
    let run = files[0].parent().unwrap().to_owned();
    std::fs::remove_dir_all(&run).unwrap();
    let again = desk.caption(&["--job-size", "30"]).json();
    assert_eq!((&again["tracks"][0], &again["already_done"]), (&report["tracks"][0], &4.into()), "{again}");
    assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), captions);
    assert!(run.join("videos.parquet").exists());
    // Other frames are another wish: the film is done again, the pictures are not.
    let denser = desk.caption(&["--job-size", "30", "--every", "500ms"]).json();
    assert_eq!((&denser["already_done"], &denser["frames"]["seen"]), (&3.into(), &272.into()), "{denser}");
}

#[test]
fn a_film_goes_on_in_the_middle() {
    let desk = Desk::new();
    film(&desk, "film.mp4", 34, 2);
    let first = desk.caption(&["--job-size", "30"]).json();
    let before: Vec<_> =
        parts(&desk).iter().map(|part| std::fs::metadata(part).unwrap().modified().unwrap()).collect();
    assert_eq!(before.len(), 3, "{first}");
    let lost = &parts(&desk)[1];
    std::fs::remove_file(lost).unwrap();
    let missing = desk.verify().any_json();
    assert_eq!(missing["whole"], false);
    assert_eq!(missing["runs"][0]["missing"][0]["frame_ms"], 60_000, "{missing}");
    let second = desk.caption(&["--job-size", "30"]).json();
    assert_eq!(second["runs"], first["runs"], "{second}");
    assert_eq!(second["frames"]["seen"], 60, "{second}");
    assert_eq!(desk.verify().json()["whole"], true);
    let after: Vec<_> =
        parts(&desk).iter().map(|part| std::fs::metadata(part).unwrap().modified().unwrap()).collect();
    assert_eq!((before[0], before[2]), (after[0], after[2]), "nothing is done twice");
}

#[test]
fn a_film_that_was_replaced_is_not_found_at_times_that_it_has_no_more() {
    let desk = Desk::new();
    film(&desk, "film.mp4", 12, 5);
    desk.caption(&["--thumbnails"]).json();
    let shown = || -> BTreeSet<PathBuf> {
        let found = desk.run([
            "search",
            "a red circle",
            "--archive",
            "archive",
            "--json",
            "-k",
            "100",
            "--thumbnails",
        ]);
        let found = found.json();
        let places = found["hits"].as_array().unwrap().iter().map(|hit| hit["thumbnail"].as_str().unwrap());
        places.map(|place| place.strip_prefix("file://").unwrap().into()).collect()
    };
    let old = shown();
    let found = |more: &[&str]| -> Vec<u64> {
        let fixed = ["search", "a red circle", "--archive", "archive", "--json", "-k", "100"];
        let found = desk.run(fixed.iter().chain(more)).json();
        let mut frames: Vec<u64> =
            found["hits"].as_array().unwrap().iter().map(|hit| hit["frame_ms"].as_u64().unwrap()).collect();
        frames.sort_unstable();
        frames
    };
    let before = found(&[]);
    assert!(before.iter().any(|frame| *frame >= 40_000), "{before:?}");
    // Another run over the same film: what only the first one saw stays.
    desk.caption(&["--every", "10s"]).json();
    let both = found(&[]);
    assert!(before.iter().all(|frame| both.contains(frame)), "{before:?} {both:?}");
    film(&desk, "shorter.mp4", 3, 6);
    std::fs::rename(desk.pictures().join("shorter.mp4"), desk.pictures().join("film.mp4")).unwrap();
    desk.caption(&["--thumbnails"]).json();
    let new = shown();
    assert!(old.is_disjoint(&new), "what was seen at a time of the old film is no picture of the new one");
    assert!(old.iter().chain(&new).all(|place| place.exists()), "{old:?} {new:?}");
    let after = found(&[]);
    assert!(after.len() >= 3 && after.iter().all(|frame| *frame < 12_000), "{after:?}");
    assert_eq!(found(&["--exact"]), after);
    std::fs::remove_dir_all(desk.archive().join("index")).unwrap();
    assert_eq!(found(&["--status", "ok"]), after, "read from parts alone");
}

#[test]
fn frames_of_a_film_that_is_done_are_kept_when_they_are_wanted() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 2, 9);
    film(&desk, "film.mp4", 2, 8);
    let first = desk.caption(&[]).json();
    let kept = first["frames"]["kept"].as_u64().unwrap();
    let search = ["search", "a red circle", "--archive", "archive", "--json", "--thumbnails"];
    let shown = || {
        let hits = desk.run(search).json()["hits"].as_array().unwrap().clone();
        hits.iter().filter(|hit| hit["thumbnail"].is_string()).count() as u64
    };
    assert_eq!(shown(), 0);
    let again = desk.caption(&["--thumbnails"]).json();
    assert_eq!(
        (&again["already_done"], again["frames"]["kept"].as_u64()),
        (&2.into(), Some(kept)),
        "{again}"
    );
    assert_eq!(shown(), kept);
    for options in [&["--thumbnails"][..], &[]] {
        let done = desk.caption(options).json();
        assert_eq!(done["already_done"], 3, "{options:?}: {done}");
    }
}

#[test]
fn a_broken_film_is_one_row_and_is_not_tried_again() {
    let desk = Desk::new();
    film(&desk, "film.mp4", 2, 3);
    let good = std::fs::read(desk.pictures().join("film.mp4")).unwrap();
    std::fs::write(desk.pictures().join("half.mp4"), &good[..good.len() / 2]).unwrap();
    std::fs::write(desk.pictures().join("list.m3u8"), "#EXTM3U\nhttp://example.org/a.ts\n").unwrap();
    let report = desk.caption(&[]).json();
    assert_eq!(report["failed"], serde_json::json!({"unsupported_format": 1, "truncated": 1}), "{report}");
    assert_eq!(desk.verify().json()["whole"], true);
    let again = desk.caption(&[]).json();
    assert_eq!((&again["already_done"], &again["already_failed"]), (&1.into(), &2.into()), "{again}");
}

#[test]
fn options_that_cannot_be_meant_are_refused() {
    let desk = Desk::new();
    film(&desk, "film.mp4", 1, 4);
    for (options, word) in [
        (&["--every", "soon"][..], "500ms"),
        (&["--every", "0s"], "500ms"),
        (&["--fps", "0"], "above 0"),
        (&["--fps", "2", "--keyframes"], "cannot be used with"),
        (&["--scenes=2"], "0 to 1"),
        (&["--min-change", "nan"], "0 to 1"),
    ] {
        let refused = desk.caption(options);
        assert_eq!(refused.code, 64, "{options:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(word), "{options:?}: {}", refused.stderr);
    }
}
