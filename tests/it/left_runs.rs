//! Runs that a service left behind when it was killed.

use std::path::PathBuf;
use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, http};
use serde_json::{Value, json};

use crate::pictures;
use crate::service::{port, until};

/// More than a service takes up at a time.
const RUNS: usize = 30;
/// Pictures of the run that is paused.
const HELD_BACK: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn every_run_of_a_killed_service_goes_on_unless_it_was_held_back() {
    let fleet = Fleet::new("left-runs").unwrap();
    let archive = fleet.s3_uri("archive");
    let serve = |name| {
        let fixed = ["--listen", "127.0.0.1:0", "--archive", &archive].map(str::to_owned);
        fleet.start_service(name, fixed.into_iter().chain(fleet.service_options())).unwrap()
    };
    let mut killed = serve("killed");
    let at = port(&killed).await;
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let source = fleet.folder().join(format!("in-{number}"));
        // The first is paused below: it has more jobs than are handed out while there is no worker.
        pictures::scenes(&source, if number == 0 { HELD_BACK } else { 2 }, 100 + number as u64);
        let order = json!({ "sources": [source], "job_size": 1 }).to_string();
        let (status, submitted) = http(at, "POST", "/api/v1/submissions", &order).await.unwrap();
        assert!(status.contains(" 202 "), "{status} {submitted}");
        let submitted: Value = serde_json::from_str(&submitted).unwrap();
        runs.push(submitted["runs"][0].as_str().unwrap().to_owned());
    }
    let (paused, cancelled) = (&runs[0], &runs[1]);
    act(at, paused, "pause", 204).await;
    act(at, cancelled, "cancel", 204).await;
    killed.signal("KILL");
    killed.wait(Duration::from_secs(10)).await.unwrap();

    let _worker = fleet.start_worker("worker", &[]).unwrap();
    let again = serve("again");
    let at = port(&again).await;
    for run in &runs[2..] {
        until(at, run, |run| run["state"] == "finished").await;
    }
    until(at, paused, |run| run["state"] == "paused").await;
    until(at, cancelled, |run| run["state"] == "cancelled").await;

    // Whoever wants to go on with a run that cannot be read is told so.
    let folder = PathBuf::from(std::env::var("CAPTIONFLEET_TEST_BUCKET").unwrap());
    let folder = folder.join(fleet.queue_prefix()).join("archive/runs").join(paused);
    let items = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let items = items.into_iter().find(|path| path.to_string_lossy().contains("items")).unwrap();
    let aside = fleet.folder().join("aside");
    std::fs::rename(&items, &aside).unwrap();
    let told = act(at, paused, "resume", 422).await;
    assert!(told.contains("items"), "{told}");
    std::fs::rename(&aside, &items).unwrap();
    for (run, pictures) in [(paused, HELD_BACK), (cancelled, 2)] {
        act(at, run, "resume", 204).await;
        until(at, run, |run| run["state"] == "finished" && run["ok"] == pictures).await;
    }
}

/// Does something with a run; the answer.
async fn act(at: u16, run: &str, what: &str, expected: u16) -> String {
    let (status, told) = http(at, "POST", &format!("/api/v1/runs/{run}/{what}"), "").await.unwrap();
    assert!(status.contains(&format!(" {expected} ")), "{what}: {status} {told}");
    told
}
