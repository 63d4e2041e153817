//! The demo command, as a newcomer runs it.

use captionfleet_tests::fleet::{dispatcher, worker};

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_captions_and_finds_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let ran = dispatcher(["demo", "--out", out.to_str().unwrap()]).await.unwrap().success().unwrap();
    assert!(ran.stdout.lines().count() > 40, "{}", ran.stdout);
    let archives: Vec<_> = walk(&out).into_iter().filter(|path| path.ends_with(".parquet")).collect();
    assert!(!archives.is_empty(), "no part below {}", out.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_model_knows_its_world() {
    let ran = worker(["evaluate", "--count", "100", "--seed", "77", "--json"]).await.unwrap();
    let measured = ran.success().unwrap().json().unwrap();
    let share = |name: &str| measured[name].as_f64().unwrap();
    assert!(share("captions_correct") >= 0.95, "{measured}");
    assert!(share("answers_correct") >= 0.95, "{measured}");
    assert!(share("recall_at_1") >= 0.90, "{measured}");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
