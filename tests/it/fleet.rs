//! A fleet over RabbitMQ and S3, with workers that come and go.

use std::time::Duration;

use captionfleet_tests::fleet::{Fleet, dispatcher};
use serde_json::Value;

use crate::pictures;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_loses_and_doubles_nothing() {
    let fleet = Fleet::new("killed").unwrap();
    let source = fleet.folder().join("in");
    pictures::scenes(&source, 500, 21);
    let archive = fleet.s3_uri("archive");

    let mut doomed = fleet.start_worker("doomed", &["--slots", "4"]).unwrap();
    let mut steady = fleet.start_worker("steady", &["--slots", "4"]).unwrap();
    let mut arguments = vec!["caption".to_owned(), source.display().to_string()];
    arguments.extend(["--archive", &archive, "--job-size", "16", "--json"].map(str::to_owned));
    arguments.extend(fleet.service_options());
    let run = tokio::spawn(dispatcher(arguments));
    wait_for_part(&fleet, &archive).await;
    doomed.signal("KILL");
    let report = run.await.unwrap().unwrap().success().unwrap().json().unwrap();
    assert_eq!(report["ok"], 500, "{report}\n{}", steady.output());
    assert_eq!(report["complete"], true, "{report}");
    assert!(doomed.wait(Duration::from_secs(5)).await.is_ok());

    let verified =
        dispatcher(["verify", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"]).await;
    verified.unwrap().success().unwrap();

    let scene = pictures::scenes(&fleet.folder().join("again"), 500, 21).remove(9);
    let mut arguments = vec!["search".to_owned(), scene.retrieval.clone()];
    arguments.extend(["--archive", &archive, "--json"].map(str::to_owned));
    arguments.extend(fleet.service_options());
    let found = dispatcher(arguments).await.unwrap().success().unwrap().json().unwrap();
    let hits: Vec<&str> =
        found["hits"].as_array().unwrap().iter().map(|hit| hit["item"].as_str().unwrap()).collect();
    assert!(hits.iter().any(|item| item.ends_with(&scene.file)), "{} is not in {hits:?}", scene.file);
    assert_eq!((&found["pictures"], &found["index"]["unindexed"]), (&500.into(), &0.into()), "{found}");

    // The index has everything already; two indexers at once agree about that.
    let index = ["index", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"];
    let (one, other) = tokio::join!(dispatcher(index), dispatcher(index));
    for indexed in [one, other] {
        assert_eq!(indexed.unwrap().success().unwrap().json().unwrap()["left"], 0);
    }

    steady.signal("TERM");
    let status = steady.wait(Duration::from_secs(30)).await.unwrap();
    assert!(status.success(), "an idle worker did not drain cleanly: {}", steady.output());
}

/// Waits until the run has its first part, so that a kill really comes in the middle.
pub(crate) async fn wait_for_part(fleet: &Fleet, archive: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let status =
            dispatcher(["status", "--archive", archive, "--s3-endpoint", fleet.s3_endpoint(), "--json"]);
        let status = status.await.unwrap();
        if status.code == 0 && parts_of(&status.json().unwrap()) > 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no part after two minutes: {}", status.stdout);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Rows that any run of a status report has.
fn parts_of(status: &Value) -> u64 {
    let runs = status["runs"].as_array().or_else(|| status.as_array()).cloned().unwrap_or_default();
    runs.iter().map(|run| run["jobs_done"].as_u64().unwrap_or_default()).sum()
}
