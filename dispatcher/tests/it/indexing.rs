//! The search index: what it finds, and that nothing is lost or doubled whatever happens to it.

use crate::desk::{Desk, below};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

fn search(desk: &Desk, arguments: &[&str]) -> Value {
    desk.run(["search", "--archive", "archive", "--json"].iter().chain(arguments)).json()
}

fn files(found: &Value) -> Vec<String> {
    let name = |hit: &Value| hit["item"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    found["hits"].as_array().unwrap().iter().map(name).collect()
}

fn segments(desk: &Desk) -> Vec<PathBuf> {
    below(&desk.archive().join("index"))
}

#[test]
fn captioning_keeps_an_index_that_agrees_with_the_exact_search() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 60, 21);
    desk.caption(&["--job-size", "8"]).json();
    assert!(!segments(&desk).is_empty());
    for scene in &scenes[..4] {
        let found = search(&desk, &[&scene.retrieval]);
        assert_eq!((&found["index"]["unindexed"], &found["pictures"]), (&0.into(), &60.into()), "{found}");
        let exact = search(&desk, &[&scene.retrieval, "--exact"]);
        assert_eq!(files(&found), files(&exact));
        let scores = |found: &Value| -> Vec<f64> {
            found["hits"].as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
        };
        assert_eq!(scores(&found), scores(&exact), "scores through the index are exact");
        let image = format!("pictures/{}", scene.file);
        assert_eq!(files(&search(&desk, &["--image", &image]))[0], scene.file);
    }
    let pages: Vec<String> = [0, 5]
        .iter()
        .flat_map(|offset| files(&search(&desk, &["a red star", "-k", "5", "--offset", &offset.to_string()])))
        .collect();
    assert_eq!(pages, files(&search(&desk, &["a red star", "-k", "10"])));
}

#[test]
fn words_and_filters_choose_what_is_ranked() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 40, 22);
    desk.caption(&[]).json();
    let captions: Vec<(String, String)> = desk
        .rows()
        .into_iter()
        .map(|row| {
            (row.item.as_str().rsplit('/').next().unwrap().to_owned(), row.caption.unwrap_or_default())
        })
        .collect();
    let with = |word: &str| -> BTreeSet<String> {
        let has =
            |caption: &str| caption.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|w| w == word);
        captions.iter().filter(|(_, caption)| has(caption)).map(|(file, _)| file.clone()).collect()
    };
    let (red, star) = (with("red"), with("star"));
    assert!(!red.is_empty() && red.len() < 40 && !star.is_empty(), "the scenes differ");
    let by_words: BTreeSet<_> =
        files(&search(&desk, &["red", "--keywords", "-k", "100"])).into_iter().collect();
    assert_eq!(by_words, red);

    // A filter leaves as many hits as there are, however far down they would have stood.
    let filtered = search(&desk, &["a blue circle", "--caption-contains", "RED", "-k", "100"]);
    let holding: BTreeSet<_> = captions
        .iter()
        .filter(|(_, caption)| caption.to_lowercase().contains("red"))
        .map(|(file, _)| file.clone())
        .collect();
    assert_eq!(files(&filtered).into_iter().collect::<BTreeSet<_>>(), holding);
    for (arguments, count) in [
        (vec!["--source", "pictures/"], 40),
        (vec!["--source", "elsewhere"], 0),
        (vec!["--min-size", "100000x1"], 0),
        (vec!["--since", "2000-01-01", "--status", "ok"], 40),
        (vec!["--until", "2000-01-01"], 0),
        (vec!["--run", "no-such-run"], 0),
    ] {
        let mut all = vec!["a star", "-k", "100"];
        all.extend(&arguments);
        assert_eq!(files(&search(&desk, &all)).len(), count, "{arguments:?}");
    }
    let hybrid = search(&desk, &["a red star", "--hybrid", "-k", "5"]);
    assert!(
        hybrid["hits"][0]["matched"]["text"].is_number() && hybrid["hits"][0]["matched"]["words"].is_number()
    );
    let ran = desk.run(["search", "x", "--archive", "archive", "--since", "soon"]);
    assert!(ran.code == 64 && ran.stderr.contains("--since"), "{}", ran.stderr);
}

#[test]
fn new_rows_and_removed_parts_show_at_once() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 12, 23);
    desk.caption(&["--job-size", "4"]).json();
    let other = desk.root().join("more");
    let more = Desk::draw(&other, 4, 24);
    desk.run(["caption", "more", "--archive", "archive", "--json", "--no-index", "--admin-addr", "off"])
        .json();
    let found = search(&desk, &[&more[0].retrieval, "-k", "100"]);
    assert_eq!(files(&found).len(), 16);
    assert_eq!(found["index"]["unindexed"], 1, "{found}");
    assert_eq!(desk.run(["index", "--archive", "archive", "--json"]).json()["parts"], 1);
    assert_eq!(search(&desk, &["a star"])["index"]["unindexed"], 0);

    let image = format!("pictures/{}", scenes[0].file);
    let part = search(&desk, &["--image", &image, "-k", "1"])["hits"][0]["part"].as_str().unwrap().to_owned();
    std::fs::remove_file(desk.archive().join(part)).unwrap();
    assert_eq!(files(&search(&desk, &["a star", "-k", "100"])).len(), 12, "the rows of the part are gone");
    desk.run(["index", "--archive", "archive", "--json"]).json();
    assert_eq!(files(&search(&desk, &["a star", "-k", "100"])).len(), 12);

    // The whole index may go, and comes back.
    std::fs::remove_dir_all(desk.archive().join("index")).unwrap();
    desk.run(["index", "--archive", "archive", "--json"]).json();
    let found = search(&desk, &["a star", "-k", "100"]);
    assert_eq!((files(&found).len(), &found["index"]["unindexed"]), (12, &0.into()));
}

#[test]
fn two_indexers_and_a_killed_one_leave_every_row_once() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 60, 25);
    desk.caption(&["--job-size", "1", "--no-index"]).json();
    assert!(segments(&desk).is_empty());
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_dispatcher"))
            .args(["index", "--archive", "archive", "--quiet"])
            .current_dir(desk.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    for wait in [5, 15, 30, 60] {
        let mut killed = start();
        std::thread::sleep(Duration::from_millis(wait));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let mut both = [start(), start()];
    for indexer in &mut both {
        assert!(indexer.wait().unwrap().success());
    }
    let found = search(&desk, &["a star", "-k", "100"]);
    let names = files(&found);
    assert_eq!((names.len(), names.iter().collect::<BTreeSet<_>>().len()), (60, 60));
    assert_eq!(found["index"]["unindexed"], 0);

    // A segment that was cut off is no use, and is made anew.
    let whole = segments(&desk)
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "segment"))
        .unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::remove_file(&whole).unwrap();
    std::fs::write(&whole, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(files(&search(&desk, &["a star", "-k", "100"])).len(), 60);
    desk.run(["index", "--archive", "archive", "--json"]).json();
    let found = search(&desk, &["a star", "-k", "100"]);
    assert_eq!((files(&found).len(), &found["index"]["unindexed"]), (60, &0.into()));
}

#[test]
fn near_duplicates_stand_together() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 10, 26);
    std::fs::copy(desk.pictures().join(&scenes[0].file), desk.pictures().join("copy.png")).unwrap();
    desk.caption(&[]).json();
    let image = format!("pictures/{}", scenes[0].file);
    let found = search(&desk, &["--image", &image, "--group", "-k", "100"]);
    let first = &found["hits"][0];
    assert_eq!(first["duplicates"].as_array().map(Vec::len), Some(1), "{found}");
    assert!(files(&found).len() <= 10);
    // A page that ends at the leader still says what is like it.
    let first = search(&desk, &["--image", &image, "--group", "-k", "1"]);
    assert_eq!(first["hits"][0], found["hits"][0]);
    for deep in [&["-k", "1001"][..], &["-k", "1", "--offset", "1000"], &["-k", "100000"]] {
        let ran =
            desk.run(["search", "--image", &image, "--archive", "archive", "--group"].iter().chain(deep));
        assert_eq!(ran.code, 64, "{deep:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("best 1000"), "{}", ran.stderr);
    }
}
