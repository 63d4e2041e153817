//! Every regular file ends as exactly one row, whatever it is.

use crate::desk::Desk;
use captionfleet_proto::rows::Status;
use captionfleet_proto::uri::Location;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn a_folder_of_awkward_files() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 2, 1);
    let pictures = desk.pictures();
    let whole = fs::read(pictures.join(&scenes[0].file)).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = pictures.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("nothing.jpg", b"");
    write("cut.png", &whole[..whole.len() / 2]);
    write("wrong name.jpg", &whole);
    write("text.txt", b"no picture");
    write("d\u{fc}ster & 100%/\u{732b} #1?.png", &whole);
    write(".hidden.png", &whole);
    symlink(&scenes[0].file, pictures.join("link.png")).unwrap();
    symlink("nowhere.png", pictures.join("broken.png")).unwrap();
    symlink(".", pictures.join("loop")).unwrap();

    let report = desk.caption(&[]).json();
    assert_eq!(report["complete"], true);
    let rows: BTreeMap<_, _> = desk
        .rows()
        .into_iter()
        .map(|row| {
            let Location::File(path) = row.item.location() else { panic!("{} is no file", row.item) };
            (path.strip_prefix(&pictures).unwrap().to_str().unwrap().to_owned(), row)
        })
        .collect();
    assert_eq!(rows.len(), desk.rows().len(), "no file has two rows");
    let ended = |name: &str| {
        let row = rows.get(name).unwrap_or_else(|| panic!("{name} has no row: {:?}", rows.keys()));
        row.error_code.clone().unwrap_or_else(|| {
            assert_eq!(row.status, Status::Ok);
            "ok".to_owned()
        })
    };
    for name in [&scenes[0].file, "wrong name.jpg", "link.png", "d\u{fc}ster & 100%/\u{732b} #1?.png"] {
        assert_eq!(ended(name), "ok", "{name}");
    }
    assert_eq!(ended("nothing.jpg"), "empty");
    assert_eq!(ended("cut.png"), "truncated");
    assert_eq!(ended("text.txt"), "unsupported_format");
    assert_eq!(ended("broken.png"), "not_found");
    assert_eq!(rows.len(), 9, "{:?}", rows.keys());

    assert_eq!(desk.verify().json()["whole"], true);
    let again = desk.caption(&[]).json();
    assert_eq!((&again["already_done"], &again["already_failed"]), (&5.into(), &4.into()), "{again}");
    let strict = desk.caption(&["--retry-failed", "--strict"]);
    assert_eq!(strict.code, 1);
    assert_eq!(strict.any_json()["failed"]["empty"], 1);
}

/// One object of an archive that cannot be used is told, and keeps no run from being done.
#[test]
fn an_object_that_is_missing_or_too_large_holds_up_nothing() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 2, 12);
    let first = desk.caption(&["--job-size", "1"]).json();
    let run = first["runs"][0].as_str().unwrap().to_owned();
    // The run owes a part, and nobody can tell any more which pictures that was.
    fs::remove_file(&desk.parts()[0]).unwrap();
    fs::remove_file(desk.archive().join(format!("runs/{run}/items-00000.parquet"))).unwrap();
    fs::write(desk.archive().join("runs/stranger.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    let ran = desk.run(["caption", "pictures", "--archive", "archive"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("runs/stranger.json"), "{}{}", ran.stdout, ran.stderr);
    fs::remove_file(desk.archive().join("runs/stranger.json")).unwrap();
    let ran = desk.run(["caption", "pictures", "--archive", "archive"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("items-00000.parquet"), "{}", ran.stderr);
}

/// What cannot be a message is refused before anything of it is in the archive.
#[test]
fn questions_that_fit_into_no_message_leave_nothing_behind() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 2, 13);
    let questions: Vec<String> = (0..300).map(|at| format!("{at} {}", "what? ".repeat(660))).collect();
    fs::write(desk.root().join("questions.txt"), questions.join("\n")).unwrap();
    let ran = desk.run(["caption", "pictures", "--archive", "archive", "--questions", "questions.txt"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("fewer or shorter questions"), "{}", ran.stderr);
    assert!(!desk.archive().join("runs").exists(), "a run that nobody can do");
    assert_eq!(desk.caption(&[]).json()["ok"], 2);
}
