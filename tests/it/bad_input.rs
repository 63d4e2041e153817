//! What cannot be meant or cannot be done ends in one clear line and an exit code.

use captionfleet_tests::fleet::{Endpoints, dispatcher, worker};
use captionfleet_tests::sandbox::{BUCKET, free_port};

use crate::pictures;

/// Runs a command that must fail with one line that names `expected`.
async fn refused(program: &str, arguments: &[&str], expected: &str) {
    let ran =
        if program == "worker" { worker(arguments).await } else { dispatcher(arguments).await }.unwrap();
    assert_ne!(ran.code, 0, "{program} {arguments:?} succeeded:\n{}", ran.stdout);
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{program} {arguments:?}:\n{}", ran.stderr);
    assert!(lines[0].contains(expected), "{expected} is not named in: {}", lines[0]);
    assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("stack backtrace"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_and_archives_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("out");
    let out = archive.to_str().unwrap();
    let missing = folder.path().join("nowhere");
    refused("dispatcher", &["caption", missing.to_str().unwrap(), "--archive", out], "nowhere").await;
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused("dispatcher", &["caption", empty.to_str().unwrap(), "--archive", out], "empty").await;
    assert!(!archive.exists(), "something was written for a job that cannot be done");
    refused("dispatcher", &["caption", empty.to_str().unwrap(), "--archive", "ftp://x/y"], "ftp").await;
    refused("dispatcher", &["search", "a dog", "--archive", missing.to_str().unwrap()], "nowhere").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    pictures::scenes(&folder.path().join("in"), 1, 1);
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let caption = |model: &str| ["caption", source, "--archive", out, "--model", model].map(str::to_owned);
    for model in [source, "/nowhere/at-all", "/dev/null"] {
        let arguments = caption(model);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused("dispatcher", &arguments, model).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_do_not_answer_or_refuse() {
    let broker = Endpoints::from_environment().unwrap().broker;
    let closed = format!("amqp://127.0.0.1:{}", free_port().unwrap());
    // Workers and services wait for a while: `starting.rs`.
    let caption = ["caption", "s3://x/in", "--archive", "s3://x/out", "--broker", &closed];
    refused("dispatcher", &caption, "127.0.0.1").await;
    let wrong = broker.replace("guest:guest", "guest:wrong-password");
    let caption = ["caption", "s3://x/in", "--archive", "s3://x/out", "--broker", &wrong];
    let ran = dispatcher(caption).await.unwrap();
    assert!(!ran.stderr.contains("wrong-password"), "a password was shown: {}", ran.stderr);
    refused("dispatcher", &caption, "refused").await;
    let vhost = broker.replace("%2f", "no-such-vhost");
    let caption = ["caption", "s3://x/in", "--archive", "s3://x/out", "--broker", &vhost];
    refused("dispatcher", &caption, "no-such-vhost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_cannot_be_the_archive_of_a_fleet() {
    let folder = tempfile::tempdir().unwrap();
    pictures::scenes(&folder.path().join("in"), 1, 1);
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let broker = Endpoints::from_environment().unwrap().broker;
    let arguments =
        ["caption", source.to_str().unwrap(), "--archive", out.to_str().unwrap(), "--broker", &broker];
    refused("dispatcher", &arguments, "s3://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_that_are_not_there() {
    let s3 = Endpoints::from_environment().unwrap().s3;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let source = "s3://no-such-bucket/pictures";
    refused("dispatcher", &["caption", source, "--archive", out, "--s3-endpoint", &s3], "no-such-bucket")
        .await;
    let nothing = format!("s3://{BUCKET}/nothing-below-this");
    refused("dispatcher", &["caption", &nothing, "--archive", out, "--s3-endpoint", &s3], "nothing-below")
        .await;
}
