//! What is forgotten is found nowhere, and no run does it again.

use crate::desk::{Desk, below};
use captionfleet_world::film::of_scenes;
use captionfleet_world::{Scene, Split};
use serde_json::Value;

fn found(desk: &Desk, arguments: &[&str]) -> Vec<String> {
    let fixed = ["search", "--archive", "archive", "--json", "-k", "100"];
    let found = desk.run(fixed.iter().chain(arguments)).json();
    let name = |hit: &Value| hit["item"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    found["hits"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn a_forgotten_picture_is_found_no_more_and_stays_done() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 10, 31);
    desk.caption(&["--job-size", "4"]).json();
    // Its embedding came once more with an answer.
    desk.caption(&["--ask", "Is it red?", "--job-size", "4"]).json();
    let (gone, left) = (&scenes[2], &scenes[3]);
    let path = format!("pictures/{}", gone.file);
    let told = desk.run(["forget", &path, "--archive", "archive", "--json", "--dry-run"]).json();
    assert_eq!((&told["items"], &told["rows"], &told["parts"]), (&1.into(), &2.into(), &2.into()), "{told}");
    assert!(found(&desk, &["a star"]).contains(&gone.file), "nothing has changed yet");

    let told = desk.run(["forget", &path, "--archive", "archive", "--json"]).json();
    assert_eq!((&told["items"], &told["rows"]), (&1.into(), &2.into()), "{told}");
    for arguments in [
        vec!["a star"],
        vec!["a star", "--hybrid"],
        vec!["a", "--keywords"],
        vec!["a star", "--exact"],
        vec!["--image", &path],
        vec!["a star", "--status", "skipped"],
    ] {
        assert!(!found(&desk, &arguments).contains(&gone.file), "{arguments:?}");
    }
    assert_eq!(found(&desk, &["--image", &format!("pictures/{}", left.file)])[0], left.file);
    assert_eq!(found(&desk, &["a star"]).len(), 9);
    let said: Vec<_> =
        desk.rows().into_iter().filter(|row| row.item.as_str().ends_with(&gone.file)).collect();
    assert_eq!(said.len(), 2, "the rows stay");
    assert!(said.iter().all(|row| row.is_forgotten() && row.caption.is_none() && row.embedding.is_none()));

    let verified = desk.verify().json();
    assert_eq!(verified["whole"], true, "{verified}");
    let again = desk.caption(&["--job-size", "4"]).json();
    assert_eq!(again["ok"].as_u64().unwrap_or(0), 0, "nothing is captioned again: {again}");
    let nothing = desk.run(["forget", &path, "--archive", "archive"]);
    assert!(nothing.code == 1 && nothing.stderr.contains("there is no row"), "{}", nothing.stderr);
    // All of a folder.
    let told = desk.run(["forget", "pictures/", "--archive", "archive", "--json"]).json();
    assert_eq!((&told["items"], &told["rows"]), (&9.into(), &18.into()), "{told}");
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn of_a_forgotten_film_no_frame_track_or_thumbnail_is_left() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.pictures()).unwrap();
    for (name, seed) in [("gone.mp4", 1), ("left.mp4", 2)] {
        let scenes = (0..3).map(|number| Scene::sample(1000 * seed + number, Split::Train));
        of_scenes(scenes, 4, &desk.root().join(name), &desk.pictures().join(name)).unwrap();
    }
    desk.caption(&["--thumbnails"]).json();
    let captions = |desk: &Desk, name: &str| -> Vec<String> {
        let tracks = below(&desk.archive().join("videos")).into_iter();
        let ours = tracks.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name));
        ours.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    };
    let thumbnails = below(&desk.archive().join("thumbnails")).len();
    assert!(captions(&desk, "gone").iter().any(|track| track.contains(" --> ")));
    let told = desk.run(["forget", "pictures/gone.mp4", "--archive", "archive", "--json"]).json();
    let rows = told["rows"].as_u64().unwrap() as usize;
    assert!(rows >= 3 && told["items"] == 1, "{told}");
    assert!(!found(&desk, &["a star"]).contains(&"gone.mp4".to_owned()));
    assert!(found(&desk, &["a star"]).contains(&"left.mp4".to_owned()));
    assert!(captions(&desk, "gone").iter().all(|track| !track.contains(" --> ")), "no caption is left");
    assert!(captions(&desk, "left").iter().any(|track| track.contains(" --> ")));
    assert_eq!(below(&desk.archive().join("thumbnails")).len(), thumbnails - rows);
    assert_eq!(desk.verify().json()["whole"], true);
}
