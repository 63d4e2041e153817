//! Items that end processes: one row each, never their neighbours.

use captionfleet_proto::broker::{Broker as _, Message};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, Lane};

use crate::bench::{Bench, Running, engine, eventually, slow_png, verdicts};

const QUARANTINED: &str = "captionfleet_worker_quarantined_jobs_total";

/// Waits until the marker says that the item at `index` is being tried.
async fn trying(bench: &Bench, index: u64) {
    marked(bench, |marker| marker["trying"]["index"] == index).await;
}

/// Waits until the marker is as it should be.
async fn marked(bench: &Bench, holds: impl Fn(&serde_json::Value) -> bool) {
    eventually("the marker", || async {
        let marker: serde_json::Value =
            serde_json::from_slice(&std::fs::read(bench.marker_path("job-1")).ok()?).ok()?;
        holds(&marker).then_some(())
    })
    .await;
}

async fn busy(worker: &Running) {
    eventually("an item in flight", || async {
        (worker.metric("captionfleet_worker_items_in_flight") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_over_which_three_lives_end_alone_is_condemned_and_its_neighbours_are_done() {
    let bench = Bench::new().await;
    let mut items = bench.scenes(3);
    items.insert(2, bench.file("slow.png", &slow_png()));
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let first = bench.start();
    busy(&first).await;
    first.kill().await;
    let second = bench.start();
    trying(&bench, 2).await;
    assert_eq!(second.metric(QUARANTINED), 1.0);
    second.kill().await;
    assert!(!bench.part_path("job-1").exists());
    for deaths in 1..3 {
        let again = bench.start();
        marked(&bench, |marker| {
            let suspected = marker["suspected"].as_array().is_some_and(|suspected| {
                suspected.len() == deaths && suspected.iter().all(|suspect| suspect["index"] == 2)
            });
            suspected && marker["trying"]["index"] == 2
        })
        .await;
        assert!(again.fetched() <= 1.0, "whatever may end this life as well is tried first");
        again.kill().await;
    }
    let last = bench.start();
    let outcome = bench.outcome().await;
    assert_eq!((outcome.ok, outcome.failed["worker_crash"]), (3, 1));
    assert_eq!(verdicts(&bench.rows("job-1")), ["ok", "ok", "worker_crash", "ok"]);
    last.stop().await;
    assert!(!bench.marker_path("job-1").exists());
    assert_eq!(bench.waiting(Lane::Bulk).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_ended_from_outside_condemns_nobody() {
    let bench = Bench::new().await;
    let mut items = bench.scenes(3);
    items.insert(1, bench.file("slow.png", &slow_png()));
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    bench.hand_out_once(Lane::Bulk).await;
    let first = bench.start();
    trying(&bench, 1).await;
    first.kill().await;
    let second = bench.start();
    assert_eq!(bench.outcome().await.ok, 4);
    assert_eq!(verdicts(&bench.rows("job-1")), ["ok"; 4]);
    second.stop().await;
    assert!(!bench.marker_path("job-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_shutdown_condemns_nobody() {
    let mut bench = Bench::new().await;
    bench.options.grace = std::time::Duration::ZERO;
    let mut items = bench.scenes(2);
    items.insert(1, bench.file("slow.png", &slow_png()));
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    bench.hand_out_once(Lane::Bulk).await;
    let first = bench.start();
    trying(&bench, 1).await;
    first.stop().await;
    assert_eq!(bench.waiting(Lane::Bulk).await, 1);
    let marker = std::fs::read_to_string(bench.marker_path("job-1")).unwrap();
    assert!(marker.contains("\"trying\": null"), "{marker}");
    let second = bench.start();
    assert_eq!(bench.outcome().await.ok, 3);
    second.stop().await;
    assert!(!bench.marker_path("job-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_life_condemned_stays_condemned_after_an_orderly_failure() {
    let bench = Bench::new().await;
    let items = bench.scenes(2);
    let marker = serde_json::json!({
        "life": "someone else",
        "condemned": [{"index": 0, "item": items[0].uri.as_str()}],
        "trying": null,
    });
    std::fs::create_dir_all(bench.marker_path("job-1").parent().unwrap()).unwrap();
    std::fs::write(bench.marker_path("job-1"), marker.to_string()).unwrap();
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    bench.hand_out_once(Lane::Bulk).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.failed["worker_crash"], 1);
    assert_eq!(verdicts(&bench.rows("job-1")), ["worker_crash", "ok"]);
    worker.stop().await;
}

/// Waits until the job has gone round at a worker that cannot do it, and puts `now` in its place, which any worker can do.
async fn goes_round_and_is(bench: &Bench, now: &Job) {
    let worker = bench.start();
    let rounds = "captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"retried\"}";
    eventually("it goes round", async || (worker.metric(rounds) >= 2.0).then_some(())).await;
    worker.stop().await;
    let waiting = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    let message = Message { body: codec::encode_job(now).unwrap(), ..waiting };
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), message).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_passes_a_job_on_tells_that_a_process_may_have_died_on_it() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(2));
    job.bundle = Some("f".repeat(64));
    bench.publish(Lane::Bulk, &job).await;
    bench.hand_out_once(Lane::Bulk).await;
    // It comes to a worker of another model, which passes it on: the broker knows nothing of the message that it publishes.
    let own = Job { bundle: Some(engine().info().bundle.clone()), ..job };
    goes_round_and_is(&bench, &own).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 2);
    assert_eq!(worker.metric(QUARANTINED), 1.0);
    worker.stop().await;
    assert!(!bench.marker_path("job-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_when_the_job_comes_back_hides_no_death() {
    let mut bench = Bench::new().await;
    // Nobody listens there, or nobody has credentials for it.
    bench.storage.s3_endpoint = Some("http://127.0.0.1:1".to_owned());
    let job = bench.job("job-1", bench.scenes(2));
    let away = captionfleet_proto::uri::ArchiveUri::parse("s3://away/archive").unwrap();
    bench.publish(Lane::Bulk, &Job { archive: away, ..job.clone() }).await;
    bench.hand_out_once(Lane::Bulk).await;
    goes_round_and_is(&bench, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 2);
    assert_eq!(worker.metric(QUARANTINED), 1.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_nobody_waits_for_leaves_no_marker() {
    let bench = Bench::new().await;
    let slow = slow_png();
    let items = (0..12).map(|number| bench.file(&format!("slow-{number}.png"), &slow)).collect();
    let mut job = bench.job("job-1", items);
    job.deadline = Some(jiff::Timestamp::now() + std::time::Duration::from_secs(60));
    bench.publish(Lane::Interactive, &job).await;
    bench.hand_out_once(Lane::Interactive).await;
    let worker = bench.start();
    trying(&bench, 0).await;
    bench.broker.close_mailbox(&bench.mailbox).await.unwrap();
    let dropped = "captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"cancelled\"}";
    eventually("it is dropped", async || (worker.metric(dropped) > 0.0).then_some(())).await;
    worker.stop().await;
    assert!(!bench.marker_path("job-1").exists() && !bench.part_path("job-1").exists());
}
