//! What is missing, doubled or damaged is noticed.

use crate::desk::Desk;
use std::fs;

fn desk() -> Desk {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 4, 8);
    desk.caption(&["--job-size", "2"]).json();
    assert_eq!(desk.verify().json()["whole"], true);
    desk
}

fn findings(desk: &Desk, kind: &str) -> usize {
    let ran = desk.verify();
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    ran.any_json()["runs"][0][kind].as_array().unwrap().len()
}

#[test]
fn a_deleted_part() {
    let desk = desk();
    fs::remove_file(&desk.parts()[0]).unwrap();
    assert_eq!(findings(&desk, "missing"), 2);
}

#[test]
fn a_doubled_part() {
    let desk = desk();
    let part = &desk.parts()[0];
    fs::copy(part, part.with_file_name("again.parquet")).unwrap();
    assert_eq!(findings(&desk, "doubled"), 2);
    assert!(findings(&desk, "unexpected") > 0);
}

#[test]
fn a_lost_manifest_and_a_run_that_never_had_one() {
    let desk = desk();
    let runs = desk.archive().join("runs");
    let manifest = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path());
    let manifest = manifest.into_iter().find(|path| path.is_file()).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert_eq!(findings(&desk, "unreadable"), 1);
    // What another program publishes has neither manifest nor items.
    fs::remove_dir_all(manifest.with_extension("")).unwrap();
    let answer = desk.verify().json();
    assert_eq!((&answer["runs"][0]["planned"], &answer["runs"][0]["items"]), (&false.into(), &4.into()));
}

#[test]
fn a_damaged_part_and_a_damaged_manifest() {
    let desk = desk();
    let part = &desk.parts()[1];
    let bytes = fs::read(part).unwrap();
    fs::write(part, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(findings(&desk, "unreadable"), 1);
    assert_eq!(findings(&desk, "missing"), 2);
    fs::write(part, &bytes).unwrap();
    let manifest = fs::read_dir(desk.archive().join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let manifest = manifest.into_iter().find(|path| path.extension().is_some()).unwrap();
    fs::write(manifest, b"{").unwrap();
    assert_eq!(findings(&desk, "unreadable"), 1);
}
