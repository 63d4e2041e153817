//! Draining: quickly when idle, without loss when busy.

use std::time::{Duration, Instant};

use captionfleet_proto::job::Lane;

use crate::bench::{Bench, eventually, slow_png};

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_stops_at_once() {
    let bench = Bench::new().await;
    let worker = bench.start();
    eventually("readiness", || async { worker.readiness.is_ready().then_some(()) }).await;
    let readiness = std::sync::Arc::clone(&worker.readiness);
    let started = Instant::now();
    worker.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(!readiness.is_ready());
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
async fn what_cannot_be_finished_goes_back_without_suspicion() {
    let mut bench = Bench::new().await;
    bench.options.grace = Duration::ZERO;
    let items = vec![bench.file("slow.png", &slow_png())];
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let first = bench.start();
    eventually("an item in flight", || async {
        (first.metric("captionfleet_worker_items_in_flight") > 0.0).then_some(())
    })
    .await;
    let started = Instant::now();
    assert_eq!(first.stop().await.jobs, 0);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(bench.waiting(Lane::Bulk).await, 1);
    let second = bench.start();
    assert_eq!(bench.outcome().await.attempts, 1);
    assert_eq!(second.metric("captionfleet_worker_quarantined_jobs_total"), 0.0);
    second.stop().await;
}
