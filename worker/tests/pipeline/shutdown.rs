//! Draining: quickly when idle, without loss when busy.

use std::sync::Arc;
use std::time::Duration;

use captionfleet_proto::broker::{Broker as _, Message};
use captionfleet_proto::codec;
use captionfleet_proto::job::{JobId, Lane};
use captionfleet_proto::layout;
use captionfleet_proto::rows::read_unfinished;
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_worker::app::{Served, WorkerConfig, run_worker};
use captionfleet_worker::model_choice::ModelChoice;
use captionfleet_worker::pipeline::PipelineReport;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, eventually, slow_png};

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_waits_for_nothing() {
    let mut bench = Bench::new().await;
    bench.options.grace = Duration::from_secs(60 * 60);
    let worker = bench.start();
    eventually("readiness", || async { worker.readiness.is_ready().then_some(()) }).await;
    let readiness = std::sync::Arc::clone(&worker.readiness);
    worker.stop().await;
    assert!(!readiness.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_before_it_is_ready_touches_no_job() {
    let bench = Bench::new().await;
    for id in ["job-1", "job-2"] {
        bench.publish(Lane::Bulk, &bench.job(id, bench.scenes(1))).await;
    }
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    // Neither one whose model is being loaded, nor one that was about to take its first jobs.
    let config = WorkerConfig { pipeline: bench.options.clone(), ..WorkerConfig::default() };
    let stores = Arc::new(Stores::new(StorageOptions::default()));
    let served = Served::Model(ModelChoice::Demo.resolve(&stores).await.unwrap());
    let report =
        run_worker(config, Arc::new(bench.broker.clone()), stores, served, shutdown.clone()).await.unwrap();
    assert_eq!(report, PipelineReport::default());
    assert_eq!(bench.start_until(shutdown).stop().await, PipelineReport::default());
    let mut consumer = bench.broker.consume(&bench.topology.lane_queue(Lane::Bulk), 2).await.unwrap();
    for id in ["job-1", "job-2"] {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!((delivery.message.message_id.as_str(), delivery.redelivered), (id, false));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_finished_within_the_grace_period() {
    let bench = Bench::new().await;
    let mut items = bench.scenes(3);
    items.push(bench.file("slow.png", &slow_png()));
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let worker = bench.start();
    eventually("an item in flight", || async {
        (worker.metric("captionfleet_worker_items_in_flight") > 0.0).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await.ok, 4);
    assert_eq!(bench.waiting(Lane::Bulk).await, 0);
    assert!(bench.part_path("job-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_of_a_job_is_done_once() {
    let mut bench = Bench::new().await;
    bench.options.grace = Duration::ZERO;
    let mut items = bench.scenes(12);
    items.extend((0..2).map(|at| bench.file(&format!("slow-{at}.png"), &slow_png())));
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let first = bench.start();
    // All have been read, and not all are on their way any more.
    eventually("a caption", || async {
        let on_their_way = first.metric("captionfleet_worker_items_in_flight");
        (first.fetched() >= 14.0 && on_their_way < 14.0).then_some(())
    })
    .await;
    assert_eq!(first.stop().await.jobs, 0);
    let unfinished = bench.archive().join(layout::unfinished(&bench.run, &JobId::new("job-1").unwrap()));
    let kept = read_unfinished(std::fs::read(unfinished).unwrap().into()).unwrap().len();
    assert!((1..14).contains(&kept), "{kept} of 14 are done");
    let second = bench.start();
    assert_eq!(bench.outcome().await.ok, 14);
    assert_eq!(second.fetched(), (14 - kept) as f64, "the others are done");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_finished_goes_back_without_suspicion() {
    let mut bench = Bench::new().await;
    bench.options.grace = Duration::ZERO;
    let job = bench.job("job-1", vec![bench.file("slow.png", &slow_png())]);
    let mut fresh = Message::new("job-1", codec::encode_job(&job).unwrap());
    fresh.reply_to = Some(bench.mailbox.clone());
    // Neither an attempt that failed in good order nor a turn that is over is a sign of a crash.
    for message in [fresh.clone(), fresh.clone().retried(jiff::Timestamp::now()), fresh.again()] {
        let (attempts, turns) = (message.attempts, message.turns);
        bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), message).await.unwrap();
        let first = bench.start();
        eventually("an item in flight", || async {
            (first.metric("captionfleet_worker_items_in_flight") > 0.0).then_some(())
        })
        .await;
        assert_eq!(first.stop().await.jobs, 0);
        assert_eq!(bench.waiting(Lane::Bulk).await, 1);
        let second = bench.start();
        assert_eq!(bench.outcome().await.attempts, attempts + 1, "after {attempts} attempts, {turns} turns");
        assert_eq!(second.metric("captionfleet_worker_quarantined_jobs_total"), 0.0);
        second.stop().await;
        std::fs::remove_file(bench.part_path("job-1")).unwrap();
    }
}
