//! What a caption job leaves behind.

use std::sync::Arc;
use std::time::Instant;

use captionfleet_proto::job::{JobKind, Lane, Prompt};
use captionfleet_proto::rows::Status;
use captionfleet_worker::engine::DeviceTime;
use captionfleet_worker::telemetry::energy::{EnergyCounter, EnergyMeter, Reading};
use captionfleet_world::{Scene, Split, Verdict, check_caption};
use sha2::{Digest, Sha256};

use crate::bench::{Bench, engine, eventually, scene_png, verdicts};

#[tokio::test(flavor = "multi_thread")]
async fn every_item_has_a_row_in_order_and_the_message_is_gone() {
    let bench = Bench::new().await;
    let items = bench.scenes(6);
    let job = bench.job("job-1", items.clone());
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    let outcome = bench.outcome().await;
    assert_eq!((outcome.ok, outcome.failed_total(), outcome.attempts), (6, 0, 1));
    assert_eq!(outcome.part.as_deref(), Some("parts/run-1/job-1.parquet"));
    let rows = bench.rows("job-1");
    assert_eq!(
        rows.iter().map(|row| &row.item).collect::<Vec<_>>(),
        items.iter().map(|item| &item.uri).collect::<Vec<_>>()
    );
    for (seed, row) in (0u64..).zip(&rows) {
        assert_eq!(row.status, Status::Ok);
        assert_eq!(row.sha256.as_deref(), Some(&*hex::encode(Sha256::digest(scene_png(seed)))));
        assert_eq!((row.width, row.height), (Some(160), Some(120)));
        assert_eq!(row.bundle.as_deref(), Some(&*engine().info().bundle));
        assert_eq!(row.embedding_space, engine().info().embedding_space);
        let (vectors, dim) = engine().info().embedding_shape.unwrap();
        assert_eq!(row.embedding.as_ref().unwrap().len(), vectors * dim);
        assert!(row.tokens.unwrap() > 0 && row.mean_logprob.unwrap() <= 0.0 && row.etag.is_some());
    }
    let right = (0u64..).zip(&rows).filter(|(seed, row)| {
        let scene = Scene::sample(*seed, Split::HeldOut);
        check_caption(row.caption.as_ref().unwrap(), &scene) == Verdict::Correct
    });
    assert!(right.count() >= 4, "{:?}", rows.iter().map(|row| &row.caption).collect::<Vec<_>>());
    eventually("readiness", || async { worker.readiness.is_ready().then_some(()) }).await;
    assert_eq!(worker.metric("captionfleet_worker_items_total{code=\"\",status=\"ok\"}"), 6.0);
    let report = worker.stop().await;
    assert_eq!((report.jobs, report.ok, report.failed), (1, 6, 0));
    assert_eq!(bench.waiting(Lane::Bulk).await, 0);
}

/// A device that always uses 100 W.
struct Steady(Instant);

impl EnergyCounter for Steady {
    fn read(&self) -> Option<Reading> {
        let at = Instant::now();
        Some(Reading { at, joules: 100.0 * (at - self.0).as_secs_f64() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn energy_is_told_where_it_is_measured() {
    let mut bench = Bench::new().await;
    let worker = bench.start();
    bench.publish(Lane::Bulk, &bench.job("unmeasured", bench.scenes(1))).await;
    assert_eq!(bench.outcome().await.device_joules, None);
    assert_eq!(bench.rows("unmeasured")[0].device_joules, None);
    worker.stop().await;

    let meter = EnergyMeter::start(Arc::new(Steady(Instant::now()))).unwrap();
    let measures = || async { meter.joules_of(&DeviceTime::default()) };
    eventually("the meter to have read twice", measures).await;
    bench.energy = Some(Arc::clone(&meter));
    let worker = bench.start();
    let items = [bench.scenes(4), vec![bench.file("empty.jpg", b"")]].concat();
    bench.publish(Lane::Bulk, &bench.job("measured", items)).await;
    let told = bench.outcome().await.device_joules.unwrap();
    let mut sum = 0.0;
    for row in bench.rows("measured") {
        let wanted = row.device_seconds.map(|seconds| 100.0 * seconds);
        let (Some(joules), Some(wanted)) = (row.device_joules, wanted) else {
            assert_eq!((row.device_joules, row.status), (None, Status::Failed));
            continue;
        };
        assert!(joules > 0.0 && (joules - wanted).abs() < 1e-3 * wanted, "{joules} J of {wanted}");
        sum += f64::from(joules);
    }
    assert!(sum > 0.0 && (told - sum).abs() < 1e-6 * sum, "{told} {sum}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_awkward_file_is_one_failed_row() {
    let bench = Bench::new().await;
    let good = scene_png(1);
    let items = vec![
        bench.file("empty.jpg", b""),
        bench.file("text.png", b"this is no picture at all, only words"),
        bench.file("cut.png", &good[..good.len() / 2]),
        bench.file("named wrongly.jpg", &good),
        crate::bench::item(&bench.folder.path().join("nowhere.png")),
        crate::bench::item(bench.folder.path()),
        bench.file("größe.png", &good),
    ];
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let worker = bench.start();
    let outcome = bench.outcome().await;
    assert_eq!((outcome.ok, outcome.failed_total()), (2, 5));
    let rows = bench.rows("job-1");
    assert_eq!(
        verdicts(&rows),
        ["empty", "unsupported_format", "truncated", "ok", "not_found", "not_found", "ok"]
    );
    assert!(rows[1].sha256.is_some() && rows[1].error_message.is_some(), "{:?}", rows[1]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_part_exists_is_not_done_again() {
    let bench = Bench::new().await;
    let job = bench.job("job-1", bench.scenes(3));
    bench.publish(Lane::Bulk, &job).await;
    let first = bench.start();
    assert!(!bench.outcome().await.already_done);
    first.stop().await;
    let part = std::fs::read(bench.part_path("job-1")).unwrap();
    bench.publish(Lane::Bulk, &job).await;
    bench.hand_out_once(Lane::Bulk).await;
    let second = bench.start();
    let outcome = bench.outcome().await;
    assert!(outcome.already_done && outcome.ok == 3, "{outcome:?}");
    assert_eq!(second.fetched(), 0.0);
    second.stop().await;
    assert_eq!(std::fs::read(bench.part_path("job-1")).unwrap(), part);
    assert_eq!(bench.waiting(Lane::Bulk).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_many_times_makes_one_part() {
    let bench = Bench::new().await;
    let job = bench.job("job-1", bench.scenes(2));
    for _ in 0..20 {
        bench.publish(Lane::Bulk, &job).await;
    }
    let worker = bench.start();
    let mut done = 0;
    for _ in 0..20 {
        done += u32::from(!bench.outcome().await.already_done);
    }
    assert_eq!(done, 1);
    assert_eq!(worker.fetched(), 2.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_does_not_fit_fails_its_items_without_reading_them() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(2));
    let JobKind::Caption(caption) = &mut job.kind else { unreachable!() };
    caption.prompt = Prompt::Ask { question: "what is red? ".repeat(300) };
    bench.publish(Lane::Interactive, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.failed["prompt_too_long"], 2);
    assert_eq!(verdicts(&bench.rows("job-1")), ["prompt_too_long"; 2]);
    assert_eq!(worker.fetched(), 0.0);
    worker.stop().await;
}
