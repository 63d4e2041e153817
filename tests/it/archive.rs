//! One machine: embedded queue, folder archive.

use std::path::Path;

use captionfleet_tests::fleet::dispatcher;
use serde_json::Value;

use crate::pictures;

async fn caption(source: &Path, archive: &Path, options: &[&str]) -> Value {
    let (source, archive) = (source.to_str().unwrap(), archive.to_str().unwrap());
    let mut arguments = vec!["caption", source, "--archive", archive, "--json"];
    arguments.extend(options);
    dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap()
}

async fn verify(archive: &Path) -> i32 {
    dispatcher(["verify", "--archive", archive.to_str().unwrap()]).await.unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_twice_and_what_is_new_or_changed_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    pictures::scenes(&source, 12, 5);
    let first = caption(&source, &archive, &[]).await;
    assert_eq!(first["ok"], 12, "{first}");

    let again = caption(&source, &archive, &[]).await;
    assert_eq!((&again["ok"], &again["already_done"]), (&Value::from(0), &Value::from(12)), "{again}");

    pictures::scenes(&source.join("more"), 10, 6);
    let more = caption(&source, &archive, &[]).await;
    assert_eq!((&more["ok"], &more["already_done"]), (&Value::from(10), &Value::from(12)), "{more}");

    let changed = source.join("more").read_dir().unwrap().next().unwrap().unwrap().path();
    image::RgbImage::new(64, 64).save_with_format(changed, image::ImageFormat::Png).unwrap();
    let one = caption(&source, &archive, &[]).await;
    assert_eq!((&one["ok"], &one["already_done"]), (&Value::from(1), &Value::from(21)), "{one}");

    let asked = caption(&source, &archive, &["--ask", "what is the background?", "--no-embed"]).await;
    assert_eq!(asked["ok"], 22, "another question is another job: {asked}");
    assert_eq!(verify(&archive).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_awkward_file_has_exactly_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("awkward"), folder.path().join("out"));
    let (ok, failed) = pictures::awkward(&source);
    let report = caption(&source, &archive, &[]).await;
    assert_eq!(report["ok"], ok, "{report}");
    for (code, count) in failed {
        assert_eq!(report["failed"][code], count, "{code} in {report}");
    }
    assert_eq!(verify(&archive).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_is_missing_and_what_is_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    pictures::scenes(&source, 8, 7);
    let report = caption(&source, &archive, &["--job-size", "4"]).await;
    assert_eq!(verify(&archive).await, 0);

    let parts = archive.join("parts").join(report["runs"][0].as_str().unwrap());
    let part = parts.read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::copy(&part, parts.join("stray.parquet")).unwrap();
    assert_ne!(verify(&archive).await, 0, "a doubled part");
    std::fs::remove_file(parts.join("stray.parquet")).unwrap();
    assert_eq!(verify(&archive).await, 0);
    std::fs::remove_file(part).unwrap();
    assert_ne!(verify(&archive).await, 0, "a missing part");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_found_by_text_and_by_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("in"), folder.path().join("out"));
    let scenes = pictures::scenes(&source, 40, 11);
    caption(&source, &archive, &[]).await;
    let archive = archive.to_str().unwrap();

    let mut first = 0;
    for scene in &scenes[..10] {
        let found = dispatcher(["search", &scene.retrieval, "--archive", archive, "--json"]).await.unwrap();
        let found = found.success().unwrap().json().unwrap();
        first += usize::from(found["hits"][0]["item"].as_str().unwrap().ends_with(&scene.file));
    }
    assert!(first >= 8, "only {first} of 10 searches found their picture first");

    let picture = source.join(&scenes[3].file);
    let found = dispatcher(["search", "--image", picture.to_str().unwrap(), "--archive", archive, "--json"]);
    let found = found.await.unwrap().success().unwrap().json().unwrap();
    assert!(found["hits"][0]["item"].as_str().unwrap().ends_with(&scenes[3].file), "{found}");
}
