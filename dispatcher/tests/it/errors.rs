//! What cannot be done is said in one line, and nothing is written.

use crate::desk::{Desk, Ran};

fn refused(desk: &Desk, ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}\n{}", ran.stdout, ran.stderr);
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{}", ran.stderr);
    for word in words {
        assert!(lines[0].contains(word), "{} lacks {word}", lines[0]);
    }
    assert!(!desk.archive().exists(), "something was written");
}

#[test]
fn sources_that_are_not_there() {
    let desk = Desk::new();
    let caption = |source: &str| desk.run(["caption", source, "--archive", "archive"]);
    refused(&desk, &caption("nowhere"), 1, &["nowhere", "no such file or folder"]);
    refused(&desk, &caption("*.jpg"), 1, &["*.jpg", "no file matches"]);
    refused(&desk, &caption("pictures"), 1, &["pictures", "nothing to caption"]);
    refused(&desk, &caption("https://example.org/a.jpg"), 64, &["s3://"]);
}

#[test]
fn settings_that_cannot_be_meant() {
    let desk = Desk::new();
    let caption =
        |more: &[&str]| desk.run(["caption", "pictures", "--archive", "archive"].iter().chain(more));
    let remote = caption(&["--broker", "amqp://127.0.0.1:1"]);
    refused(&desk, &remote, 64, &["s3://", "--broker"]);
    refused(&desk, &caption(&["--detach"]), 64, &["--broker"]);
    refused(&desk, &caption(&["--prompt", "no place"]), 64, &["<ImageHere>"]);
    refused(&desk, &caption(&["--admin-addr", "nonsense"]), 64, &["--admin-addr"]);
    refused(&desk, &caption(&["--model", "no-such-bundle"]), 1, &["no-such-bundle"]);
    assert_eq!(desk.run(["caption"]).code, 64);
    assert_eq!(desk.run(["caption", "--help"]).code, 0);
}

#[test]
fn a_broker_that_is_down() {
    let desk = Desk::new();
    Desk::draw(&desk.pictures(), 1, 1);
    let broker = "amqp://somebody:hunter2@127.0.0.1:1";
    let ran = desk.run(["caption", "pictures", "--archive", "s3://bucket/archive", "--broker", broker]);
    refused(&desk, &ran, 1, &["127.0.0.1:1"]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn archives_that_are_not_there() {
    let desk = Desk::new();
    for command in ["verify", "status"] {
        refused(&desk, &desk.run([command, "--archive", "archive"]), 1, &["archive", "no run"]);
    }
    refused(&desk, &desk.run(["search", "x", "--archive", "archive"]), 1, &["nothing to search"]);
    refused(&desk, &desk.run(["verify", "--archive", "archive", "no/run"]), 64, &["run id"]);
}
