//! What is forgotten is found nowhere, and no run does it again.

use crate::desk::{Desk, below};
use crate::faltering::Faltering;
use captionfleet_dispatcher::forget::{Forgotten, Wanted, forget};
use captionfleet_dispatcher::index::Shelf;
use captionfleet_proto::codec;
use captionfleet_proto::layout;
use captionfleet_proto::manifest::read_items;
use captionfleet_proto::rows::Row;
use captionfleet_proto::storage::{Storage, StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_world::film::of_scenes;
use captionfleet_world::{Scene, Split};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn found(desk: &Desk, arguments: &[&str]) -> Vec<String> {
    let fixed = ["search", "--archive", "archive", "--json", "-k", "100"];
    let found = desk.run(fixed.iter().chain(arguments)).json();
    let name = |hit: &Value| hit["item"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    found["hits"].as_array().unwrap().iter().map(name).collect()
}

/// A film of three scenes, each for four seconds.
fn film(desk: &Desk, name: &str, seed: u64) {
    film_of(3, desk, name, seed);
}

fn film_of(scenes: u64, desk: &Desk, name: &str, seed: u64) {
    let scenes = (0..scenes).map(|number| Scene::sample(1000 * seed + number, Split::Train));
    of_scenes(scenes, 4, &desk.root().join(name), &desk.pictures().join(name)).unwrap();
}

fn item(desk: &Desk, name: &str) -> ItemUri {
    ItemUri::from_path(&desk.pictures().join(name).canonicalize().unwrap()).unwrap()
}

/// Writes a file, whatever folders there are.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The tracks of a film.
fn tracks(archive: &Path, name: &str) -> Vec<PathBuf> {
    let tracks = below(&archive.join("videos")).into_iter();
    tracks.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).collect()
}

/// Whether any track of a film says anything.
fn says_anything(archive: &Path, name: &str) -> bool {
    tracks(archive, name).iter().any(|path| std::fs::read_to_string(path).unwrap().contains(" --> "))
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
    film(&desk, "gone.mp4", 1);
    film(&desk, "left.mp4", 2);
    desk.caption(&["--thumbnails"]).json();
    let archive = desk.archive();
    let thumbnails = below(&archive.join("thumbnails")).len();
    assert!(says_anything(&archive, "gone"));
    let told = desk.run(["forget", "pictures/gone.mp4", "--archive", "archive", "--json"]).json();
    let rows = told["rows"].as_u64().unwrap() as usize;
    assert!(rows >= 3 && told["items"] == 1, "{told}");
    assert!(!found(&desk, &["a star"]).contains(&"gone.mp4".to_owned()));
    assert!(found(&desk, &["a star"]).contains(&"left.mp4".to_owned()));
    assert!(!says_anything(&archive, "gone"), "no caption is left");
    assert!(says_anything(&archive, "left"));
    assert_eq!(below(&archive.join("thumbnails")).len(), thumbnails - rows);
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn whatever_is_asked_later_a_forgotten_picture_is_not_looked_at() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 4, 33);
    desk.caption(&[]).json();
    let path = format!("pictures/{}", scenes[1].file);
    desk.run(["forget", &path, "--archive", "archive", "--json"]).json();
    let asked = desk.caption(&["--ask", "Is it red?"]).json();
    assert_eq!((&asked["ok"], &asked["already_done"]), (&3.into(), &1.into()), "{asked}");
    assert!(!found(&desk, &["a star"]).contains(&scenes[1].file));
    // Other bytes under its name are another picture.
    std::fs::copy(desk.pictures().join(&scenes[2].file), desk.root().join(&path)).unwrap();
    let changed = desk.caption(&[]).json();
    assert_eq!((&changed["ok"], &changed["already_done"]), (&1.into(), &3.into()), "{changed}");
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn a_linked_picture_is_forgotten_by_its_own_name() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 1, 35);
    std::fs::create_dir(desk.pictures().join("album")).unwrap();
    let target = Path::new("..").join(&scenes[0].file);
    std::os::unix::fs::symlink(target, desk.pictures().join("album/linked.png")).unwrap();
    desk.caption(&[]).json();
    let told = desk.run(["forget", "pictures/album/linked.png", "--archive", "archive", "--json"]).json();
    assert_eq!((&told["items"], &told["rows"]), (&1.into(), &1.into()), "{told}");
    assert_eq!(found(&desk, &["a star"]), [scenes[0].file.clone()]);
}

#[test]
fn a_run_that_goes_on_leaves_out_what_was_forgotten_meanwhile() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 4, 34);
    desk.caption(&["--job-size", "4"]).json();
    let before = desk.parts();
    let ask = ["--ask", "Is it red?", "--job-size", "4"];
    let first = desk.caption(&ask).json();
    // It was stopped before it had done its only job.
    let asked: Vec<_> = desk.parts().into_iter().filter(|part| !before.contains(part)).collect();
    assert_eq!(asked.len(), 1);
    std::fs::remove_file(&asked[0]).unwrap();
    let path = format!("pictures/{}", scenes[1].file);
    let told = desk.run(["forget", &path, "--archive", "archive", "--json"]).json();
    assert_eq!((&told["items"], &told["rows"], &told["parts"]), (&1.into(), &2.into(), &2.into()), "{told}");
    let answered = Desk::rows_in(&asked[0]);
    assert!(
        answered.len() == 1 && answered[0].is_forgotten(),
        "a message in a queue finds it done: {answered:?}"
    );
    let again = desk.caption(&ask).json();
    assert_eq!((&again["ok"], &again["runs"]), (&3.into(), &first["runs"]), "{again}");
    let rows: Vec<_> =
        desk.rows().into_iter().filter(|row| row.item.as_str().ends_with(&scenes[1].file)).collect();
    assert!(rows.len() == 2 && rows.iter().all(Row::is_forgotten), "{rows:?}");
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn the_rest_of_a_forgotten_film_is_not_looked_at() {
    let desk = Desk::new();
    // Three segments of at most a minute.
    film_of(33, &desk, "film.mp4", 6);
    let options = ["--job-size", "1", "--every", "10s"];
    desk.caption(&options).json();
    let parts = desk.parts();
    assert_eq!(parts.len(), 3);
    // The run was stopped after the first of them.
    for part in &parts[1..] {
        std::fs::remove_file(part).unwrap();
    }
    let told = desk.run(["forget", "pictures/film.mp4", "--archive", "archive", "--json"]).json();
    assert_eq!((&told["items"], &told["parts"]), (&1.into(), &3.into()), "{told}");
    let again = desk.caption(&options).json();
    assert_eq!((&again["ok"], &again["already_done"]), (&0.into(), &1.into()), "{again}");
    assert!(desk.rows().iter().all(Row::is_forgotten));
    let verified = desk.verify().json();
    assert_eq!(verified["whole"], true, "{verified}");
}

#[test]
fn what_an_unfinished_run_left_of_a_forgotten_film_goes_as_well() {
    let desk = Desk::new();
    film(&desk, "gone.mp4", 4);
    film(&desk, "left.mp4", 5);
    desk.caption(&["--thumbnails", "--job-size", "1"]).json();
    let archive = desk.archive();
    // The run was stopped when the first film was done, and has no table of its films yet.
    let is_left = |row: &Row| row.item.as_str().ends_with("left.mp4");
    let parts = below(&archive.join("parts"));
    let unfinished = parts.iter().find(|part| Desk::rows_in(part).iter().any(is_left)).unwrap();
    std::fs::remove_file(unfinished).unwrap();
    for table in below(&archive.join("videos")) {
        if table.extension().unwrap() == "parquet" {
            std::fs::remove_file(table).unwrap();
        }
    }
    // A job that was killed kept a frame and wrote no row.
    let gone = item(&desk, "gone.mp4");
    let frames = archive.join(layout::thumbnails_prefix(&gone));
    let frame = below(&frames).remove(0);
    std::fs::copy(&frame, frame.with_file_name("987654.jpg")).unwrap();
    assert!(says_anything(&archive, "gone"));

    desk.run(["forget", "pictures/gone.mp4", "--archive", "archive", "--json"]).json();
    assert!(!says_anything(&archive, "gone"), "no caption is left");
    assert!(below(&frames).is_empty(), "{:?}", below(&frames));
    assert!(!below(&archive.join("thumbnails")).is_empty(), "those of the other film stay");
}

fn copy(from: &Path, to: &Path) {
    for path in below(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(path, copy).unwrap();
    }
}

/// Forgets an item over what is made of the store.
async fn forget_over(
    archive: &Path,
    item: &ItemUri,
    over: impl FnOnce(Arc<dyn Storage>) -> Faltering,
) -> anyhow::Result<Forgotten> {
    let uri = ArchiveUri::from_folder(archive).unwrap();
    let store = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let shelf = Shelf::new(Arc::new(over(store)), &uri);
    forget(&shelf, [Wanted::Item(item.clone())].into(), false).await
}

/// Forgets an item over a store that changes so many objects at the most.
async fn forget_within(archive: &Path, item: &ItemUri, changes: usize) -> anyhow::Result<Forgotten> {
    forget_over(archive, item, |store| Faltering::after(changes, store)).await
}

#[tokio::test]
async fn wherever_forgetting_is_interrupted_the_same_call_does_the_rest() {
    let desk = Desk::new();
    film(&desk, "film.mp4", 3);
    Desk::draw(&desk.pictures(), 2, 32);
    let captioned = desk.caption(&["--thumbnails", "--job-size", "1"]).json();
    assert_eq!(captioned["complete"], true, "{captioned}");
    let item = item(&desk, "film.mp4");
    let mut interruptions = 0;
    for changes in 0.. {
        let archive = desk.root().join(format!("after {changes}"));
        copy(&desk.archive(), &archive);
        let once = forget_within(&archive, &item, changes).await;
        interruptions += usize::from(once.is_err());
        let is_done = once.is_ok();
        forget_within(&archive, &item, usize::MAX).await.unwrap();
        let left = below(&archive.join("thumbnails"));
        assert!(left.is_empty() && !says_anything(&archive, "film"), "after {changes}: {left:?}");
        let rows = Desk::rows_of(&archive);
        let said: Vec<_> = rows.iter().filter(|row| row.item == item).collect();
        assert!(said.len() >= 3 && said.iter().all(|row| row.is_forgotten()), "after {changes}");
        assert_eq!(rows.iter().filter(|row| row.caption.is_some()).count(), 2, "after {changes}");
        if is_done && tracks(&archive, "film").len() == 2 {
            break;
        }
    }
    assert!(interruptions > 6, "thumbnails, tracks and parts have their turns: {interruptions}");
}

#[tokio::test]
async fn of_a_begun_job_nothing_is_left_and_nothing_is_lost_wherever_forgetting_is_interrupted() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 4, 36);
    desk.caption(&["--job-size", "4"]).json();
    let gone = item(&desk, &scenes[1].file);
    let part = desk.parts().remove(0);
    let by_worker = std::fs::read(&part).unwrap();
    std::fs::remove_file(&part).unwrap();
    let part = part.strip_prefix(desk.archive()).unwrap();
    let (run, job) = layout::job_of_part(part.to_str().unwrap()).unwrap();
    let kept = layout::unfinished(&run, &job);
    write(&desk.archive().join(&kept), &by_worker);
    for worker_comes in [false, true] {
        let mut interruptions = 0;
        loop {
            let note = format!("after {interruptions}, {worker_comes}");
            let archive = desk.root().join(&note);
            copy(&desk.archive(), &archive);
            let is_done = forget_within(&archive, &gone, interruptions).await.is_ok();
            // One that gets the job's message, which speaks of all four.
            if worker_comes && !archive.join(part).exists() {
                write(&archive.join(part), &by_worker);
                let _ = std::fs::remove_file(archive.join(&kept));
            }
            forget_within(&archive, &gone, usize::MAX).await.unwrap();

            assert!(archive.join(part).exists(), "{note}: a worker would caption it");
            assert!(!archive.join(&kept).exists(), "{note}: what an earlier turn kept is there");
            let read = |key: String| std::fs::read(archive.join(key)).unwrap();
            let planned = read_items(read(layout::run_items(&run, 0)).into()).unwrap();
            let jobs: BTreeSet<_> = planned.iter().map(|planned| &planned.job).collect();
            let manifest = codec::decode_manifest(&read(layout::run_manifest(&run))).unwrap();
            assert_eq!(manifest.jobs, jobs.len() as u64, "{note}");
            let is_answered = |job| archive.join(layout::part(&run, job)).exists();
            let answered = planned.iter().filter(|planned| is_answered(&planned.job));
            let mut answered: Vec<_> = answered.map(|planned| (&planned.item.uri, &planned.job)).collect();
            let rows = Desk::rows_of(&archive);
            let mut there: Vec<_> = rows.iter().map(|row| (&row.item, &row.job)).collect();
            answered.sort();
            there.sort();
            assert_eq!(there, answered, "{note}");
            assert!(rows.iter().all(|row| row.item != gone || row.is_forgotten()), "{note}");
            if is_done {
                break;
            }
            interruptions += 1;
        }
        assert!(interruptions > 4, "mark, rows, manifest, part and table have their turns: {interruptions}");
    }
}

#[test]
fn a_copy_stays_that_a_planned_picture_is_to_be_read_from() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 2, 37);
    let [gone, left] = [0, 1].map(|number| format!("pictures/{}", scenes[number].file));
    std::fs::copy(desk.root().join(&gone), desk.root().join(&left)).unwrap();
    desk.caption(&["--job-size", "1"]).json();
    // The run was stopped when the first was done.
    let is_left = |row: &Row| row.item.as_str().ends_with(&scenes[1].file);
    let part = desk.parts().into_iter().find(|part| Desk::rows_in(part).iter().any(is_left)).unwrap();
    let sha256 = Desk::rows_in(&part)[0].sha256.clone().unwrap();
    std::fs::remove_file(&part).unwrap();
    let copy = desk.archive().join(layout::staged(&sha256));
    write(&copy, b"a picture");
    desk.run(["forget", &gone, "--archive", "archive", "--json"]).json();
    assert!(copy.exists(), "a message in a queue names it");
    desk.run(["forget", &left, "--archive", "archive", "--json"]).json();
    assert!(!copy.exists(), "nobody needs it any more");
}

#[test]
fn no_run_goes_on_with_what_is_forgotten_by_half() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 4, 38);
    desk.caption(&["--job-size", "4"]).json();
    let gone = item(&desk, &scenes[1].file);
    let sha256 = desk.rows().into_iter().find(|row| row.item == gone).unwrap().sha256.unwrap();
    // The run was stopped before it had done its only job, and forgetting when it had marked the picture.
    std::fs::remove_file(&desk.parts()[0]).unwrap();
    write(&desk.archive().join(layout::forgotten(&gone, layout::content_key(Some(&sha256), None))), b"");
    let again = desk.caption(&["--job-size", "4"]);
    assert!(again.stderr.contains("call it again"), "{}", again.stderr);
    assert_eq!(again.json()["ok"], 3);
    assert!(desk.rows().iter().all(|row| row.item != gone), "it was captioned");
    desk.run(["forget", &format!("pictures/{}", scenes[1].file), "--archive", "archive", "--json"]).json();
    assert!(desk.rows().iter().filter(|row| row.item == gone).all(Row::is_forgotten));
}

#[tokio::test]
async fn who_forgets_beside_another_process_brings_nothing_back() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 3, 39);
    desk.caption(&["--job-size", "4"]).json();
    let [one, other] = [0, 1].map(|number| item(&desk, &scenes[number].file));
    let archive = desk.archive();
    let (read, written) = (CancellationToken::new(), CancellationToken::new());
    let resting = |store| Faltering::resting("parts/", read.clone(), written.clone(), store);
    let slow = forget_over(&archive, &one, resting);
    let quick = async {
        read.cancelled().await;
        forget_within(&archive, &other, usize::MAX).await.unwrap();
        written.cancel();
    };
    let (slow, ()) = tokio::join!(slow, quick);
    slow.unwrap();
    let left: Vec<_> =
        desk.rows().into_iter().filter(|row| !row.is_forgotten()).map(|row| row.item).collect();
    assert_eq!(left, [item(&desk, &scenes[2].file)]);
}
