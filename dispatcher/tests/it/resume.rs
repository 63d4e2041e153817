//! Nothing is done twice, everything is done once.

use crate::desk::Desk;
use std::fs;

#[test]
fn only_what_is_new_or_changed_is_done() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures().join("a"), 6, 1);
    let first = desk.caption(&["--job-size", "4"]).json();
    assert_eq!((&first["ok"], &first["complete"]), (&6.into(), &true.into()), "{first}");

    let again = desk.caption(&[]).json();
    assert_eq!((&again["ok"], &again["already_done"]), (&0.into(), &6.into()), "{again}");
    assert!(again["runs"].as_array().unwrap().is_empty());
    let text = desk.run(["caption", "pictures", "--archive", "archive"]);
    assert!(text.stdout.starts_with("nothing to do"), "{}", text.stdout);

    Desk::draw(&desk.pictures().join("b"), 3, 2);
    let more = desk.caption(&[]).json();
    assert_eq!((&more["ok"], &more["already_done"]), (&3.into(), &6.into()), "{more}");

    let mut changed: Vec<_> =
        fs::read_dir(desk.pictures().join("b")).unwrap().map(|e| e.unwrap().path()).collect();
    changed.sort();
    fs::copy(&changed[1], &changed[0]).unwrap();
    let changed = desk.caption(&[]).json();
    assert_eq!((&changed["ok"], &changed["already_done"]), (&1.into(), &8.into()), "{changed}");
    assert_eq!(desk.rows().len(), 10);
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn another_question_is_other_work() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 2, 3);
    desk.caption(&[]).json();
    let asked = desk.caption(&["--ask", "what colour is it?", "--max-tokens", "3"]).json();
    assert_eq!(asked["ok"], 2, "{asked}");
    assert!(desk.rows().iter().all(|row| row.embedding.is_some()));
    let asked = desk.caption(&["--ask", "what colour is it?", "--max-tokens", "3"]).json();
    assert_eq!(asked["already_done"], 2, "{asked}");
}

#[test]
fn rows_without_embedding_do_not_do_where_one_is_wanted() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 2, 4);
    desk.caption(&["--no-embed"]).json();
    assert!(desk.rows().iter().all(|row| row.embedding.is_none()));
    let plan = desk.run(["plan", "pictures", "--archive", "archive", "--json"]).json();
    assert_eq!((&plan["items_to_do"], &plan["already_done"]), (&2.into(), &0.into()));
    desk.caption(&[]).json();
    let plan = desk.run(["plan", "pictures", "--no-embed", "--archive", "archive", "--json"]).json();
    assert_eq!((&plan["items_to_do"], &plan["already_done"]), (&0.into(), &2.into()));
}

#[test]
fn a_run_with_a_lost_part_goes_on_as_itself() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 5, 5);
    let first = desk.caption(&["--job-size", "2"]).json();
    let parts = desk.parts();
    fs::remove_file(&parts[1]).unwrap();
    assert_ne!(desk.verify().code, 0);
    let status = desk.run(["status", "--archive", "archive", "--json"]).json();
    assert_eq!((&status[0]["finished"], &status[0]["jobs_done"]), (&false.into(), &2.into()));
    let again = desk.caption(&["--job-size", "2"]).json();
    assert_eq!((&again["ok"], &again["runs"]), (&2.into(), &first["runs"]), "{again}");
    assert_eq!(desk.parts(), parts);
    assert_eq!(desk.verify().json()["whole"], true);
}

#[test]
fn an_item_named_twice_counts_once() {
    let desk = Desk::new();
    let scenes = Desk::draw(&desk.pictures(), 2, 6);
    let file = format!("pictures/{}", scenes[0].file);
    let report = desk.caption(&[&file, "pictures/*.png", "./pictures/../pictures"]).json();
    assert_eq!((&report["ok"], &report["duplicates"]), (&2.into(), &5.into()), "{report}");
}
