//! Jobs that cannot be done: retried later, or kept as dead letters with a reason.

use std::time::{Duration, Instant};

use captionfleet_model::preprocess::decode;
use captionfleet_proto::broker::{Broker as _, Message};
use captionfleet_proto::codec;
use captionfleet_proto::job::{JobItem, Lane};
use captionfleet_proto::uri::ItemUri;

use crate::bench::{Bench, Running, verdicts};

/// Puts the archive where nobody, not even root, can make a file.
fn lead_astray(bench: &Bench) {
    std::os::unix::fs::symlink("/sys", bench.archive()).unwrap();
}

/// Waits until a job has come back so many times, or is given up.
async fn goes_round(worker: &Running, times: f64) {
    crate::bench::eventually("it goes round, or is given up", async || {
        let told = |outcome: &str| {
            worker
                .metric(&format!("captionfleet_worker_jobs_total{{kind=\"caption\",outcome=\"{outcome}\"}}"))
        };
        (told("retried") >= times || told("dead") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_stays_away_ends_in_a_dead_letter_after_all_attempts() {
    let bench = Bench::new().await;
    lead_astray(&bench);
    bench.publish(Lane::Bulk, &bench.job("job-1", bench.scenes(1))).await;
    let worker = bench.start();
    let dead = bench.dead_letter().await;
    let reason = dead.dead.unwrap();
    assert!(reason.code.starts_with("archive_"), "{reason:?}");
    assert!(reason.message.contains("archive"), "{reason:?}");
    assert!(reason.first_failed_at.unwrap() < reason.failed_at.unwrap());
    assert_eq!(reason.queue, Some(bench.topology.lane_queue(Lane::Bulk)));
    assert_eq!(dead.attempts, bench.topology.max_attempts());
    let outcome = bench.outcome().await;
    assert!(outcome.error.unwrap().starts_with("archive_") && outcome.part.is_none());
    let report = worker.stop().await;
    assert_eq!((report.retried, report.dead), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_comes_back_gets_its_part() {
    let bench = Bench::new().await;
    lead_astray(&bench);
    bench.publish(Lane::Bulk, &bench.job("job-1", bench.scenes(1))).await;
    let worker = bench.start();
    crate::bench::eventually("the first retry", || async {
        (worker.metric("captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"retried\"}") > 0.0)
            .then_some(())
    })
    .await;
    std::fs::remove_file(bench.archive()).unwrap();
    let outcome = bench.outcome().await;
    assert_eq!((outcome.ok, outcome.error), (1, None));
    assert!(outcome.attempts > 1);
    assert_eq!(bench.rows("job-1")[0].attempts, outcome.attempts);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_job_is_a_dead_letter_with_a_reason_and_the_worker_goes_on() {
    let bench = Bench::new().await;
    let job = bench.job("job-1", bench.scenes(1));
    for (body, code) in [
        (b"{ not json".to_vec(), "message_malformed"),
        (vec![0xff, 0xfe], "message_malformed"),
        (vec![b'x'; 2 << 20], "message_too_large"),
    ] {
        bench.publish_body(Lane::Bulk, "bad", body.clone()).await;
        let worker = bench.start();
        let dead = bench.dead_letter().await;
        assert_eq!(dead.dead.unwrap().code, code);
        assert_eq!(dead.body, body, "the bytes are kept as they came");
        worker.stop().await;
    }
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_wrote_goes_round_untouched_until_its_time_is_over() {
    let bench = Bench::new().await;
    let mut future = serde_json::to_value(bench.job("job-1", bench.scenes(1))).unwrap();
    future["version"] = "1.9".into();
    future["prompt"] = serde_json::json!({"task": "haiku"});
    let body = future.to_string().into_bytes();
    bench.publish_body(Lane::Bulk, "job-1", body.clone()).await;
    let worker = bench.start();
    let rounds = "captionfleet_worker_retries_total{reason=\"message_unknown_version\"}";
    let often = bench.topology.max_attempts() + 2;
    crate::bench::eventually("more rounds than a job has attempts", || async {
        (worker.metric(rounds) >= f64::from(often)).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await.dead, 0);
    // Whoever knows the version gets it as it came.
    let passed_on = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!((passed_on.body.to_vec(), passed_on.attempts), (body.clone(), 0));
    assert!(passed_on.passed_on_since.is_some() && passed_on.first_failed_at.is_none());

    // Nobody has come who knows it.
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(2 * 60 * 60);
    let mut old = Message { passed_on_since: Some(long_ago), ..passed_on };
    old.reply_to = Some(bench.mailbox.clone());
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), old).await.unwrap();
    let worker = bench.start();
    let dead = bench.dead_letter().await;
    assert_eq!(dead.body, body, "the bytes are kept as they came");
    let reason = dead.dead.unwrap();
    assert_eq!((&*reason.code, reason.first_failed_at), ("message_unknown_version", Some(long_ago)));
    assert!(bench.outcome().await.error.unwrap().starts_with("message_unknown_version"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_somebody_moved_back_is_dead_no_more_when_it_rests() {
    let mut bench = Bench::new().await;
    bench.storage.s3_endpoint = Some("http://127.0.0.1:1".to_owned());
    let mut job = bench.job("job-1", bench.scenes(1));
    job.archive = captionfleet_proto::uri::ArchiveUri::parse("s3://away/archive").unwrap();
    let mut moved_back = Message::new("job-1", codec::encode_job(&job).unwrap());
    moved_back.dead = Some(captionfleet_proto::broker::DeadReason {
        code: "rejected".to_owned(),
        message: String::new(),
        first_failed_at: None,
        failed_at: None,
        queue: None,
    });
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), moved_back).await.unwrap();
    let worker = bench.start();
    goes_round(&worker, 1.0).await;
    assert_eq!(worker.stop().await.dead, 0);
    assert_eq!(bench.take(&bench.topology.lane_queue(Lane::Bulk)).await.dead, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_another_major_version_is_kept_as_it_came() {
    let bench = Bench::new().await;
    let mut future = serde_json::to_value(bench.job("job-1", bench.scenes(1))).unwrap();
    future["version"] = "2.0".into();
    let body = future.to_string().into_bytes();
    bench.publish_body(Lane::Bulk, "job-1", body.clone()).await;
    let worker = bench.start();
    let dead = bench.dead_letter().await;
    assert_eq!(dead.body, body);
    assert_eq!(dead.dead.unwrap().code, "message_unknown_version");
    assert_eq!(worker.stop().await.retried, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_bundle_goes_round_until_its_time_is_over() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(1));
    job.bundle = Some("f".repeat(64));
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    let rounds = "captionfleet_worker_retries_total{reason=\"bundle_mismatch\"}";
    let often = bench.topology.max_attempts() + 2;
    crate::bench::eventually("more rounds than a job has attempts", || async {
        (worker.metric(rounds) >= f64::from(often)).then_some(())
    })
    .await;
    assert_eq!((worker.fetched(), worker.stop().await.dead), (0.0, 0));
    // Whoever has the bundle gets it as one that nobody has tried.
    let passed_on = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!(passed_on.attempts, 0);

    // Nobody has come who has it; workers of earlier versions told that in another place.
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(2 * 60 * 60);
    for old in [
        Message { passed_on_since: Some(long_ago), ..passed_on.clone() },
        Message { passed_on_since: None, first_failed_at: Some(long_ago), ..passed_on },
    ] {
        bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), old).await.unwrap();
        let worker = bench.start();
        let dead = bench.dead_letter().await;
        assert_eq!(dead.passed_on_since, None, "it would be given up again at once");
        let reason = dead.dead.unwrap();
        assert_eq!((&*reason.code, reason.first_failed_at), ("bundle_mismatch", Some(long_ago)));
        assert!(bench.outcome().await.error.unwrap().starts_with("bundle_mismatch"));
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_hours_ago_goes_round_as_long_as_others() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(1));
    job.bundle = Some("f".repeat(64));
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(2 * 60 * 60);
    let failed = Message::new("job-1", codec::encode_job(&job).unwrap()).retried(long_ago);
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), failed).await.unwrap();
    let worker = bench.start();
    goes_round(&worker, 3.0).await;
    assert_eq!(worker.stop().await.dead, 0);
    let passed_on = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!((passed_on.attempts, passed_on.first_failed_at), (1, Some(long_ago)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_away_costs_no_attempt_until_it_has_been_away_for_long() {
    let mut bench = Bench::new().await;
    // Nobody listens there, or nobody has credentials for it.
    bench.storage.s3_endpoint = Some("http://127.0.0.1:1".to_owned());
    let mut job = bench.job("job-1", bench.scenes(1));
    job.archive = captionfleet_proto::uri::ArchiveUri::parse("s3://away/archive").unwrap();
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    let often = f64::from(bench.topology.max_attempts() + 2);
    goes_round(&worker, often).await;
    assert_eq!(worker.stop().await.dead, 0);
    let waiting = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!((waiting.attempts, &waiting.dead), (0, &None));
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(25 * 60 * 60);
    let old = Message { waiting_since: Some(long_ago), ..waiting };
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), old).await.unwrap();
    let worker = bench.start();
    let reason = bench.dead_letter().await.dead.unwrap();
    assert!(reason.code.starts_with("archive_") && reason.first_failed_at == Some(long_ago), "{reason:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_pictures_that_is_away_costs_no_attempt() {
    let mut bench = Bench::new().await;
    // Nobody listens there, or nobody has credentials for it.
    bench.storage.s3_endpoint = Some("http://127.0.0.1:1".to_owned());
    let item = JobItem::new(ItemUri::s3("away", "picture.png"));
    bench.publish(Lane::Bulk, &bench.job("job-1", vec![item])).await;
    let worker = bench.start();
    let often = f64::from(bench.topology.max_attempts());
    goes_round(&worker, often).await;
    assert_eq!(worker.stop().await.dead, 0);
    let waiting = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!((waiting.attempts, &waiting.dead), (0, &None));
    assert!(waiting.waiting_since.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_waited_for_its_archive_for_hours_goes_round_at_workers_of_another_model() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(1));
    job.bundle = Some("f".repeat(64));
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(2 * 60 * 60);
    let waiting = Message::new("job-1", codec::encode_job(&job).unwrap()).waiting(long_ago);
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), waiting).await.unwrap();
    let worker = bench.start();
    goes_round(&worker, 3.0).await;
    assert_eq!(worker.stop().await.dead, 0);
    let passed_on = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert_eq!((passed_on.attempts, passed_on.waiting_since), (0, Some(long_ago)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_a_future_is_given_up_like_others() {
    let bench = Bench::new().await;
    let mut job = bench.job("job-1", bench.scenes(1));
    job.bundle = Some("f".repeat(64));
    let mut message = Message::new("job-1", codec::encode_job(&job).unwrap());
    message.passed_on_since = Some(jiff::Timestamp::MAX);
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), message).await.unwrap();
    let worker = bench.start();
    let rounds = "captionfleet_worker_retries_total{reason=\"bundle_mismatch\"}";
    crate::bench::eventually("a round", || async { (worker.metric(rounds) >= 1.0).then_some(()) }).await;
    worker.stop().await;
    let passed_on = bench.take(&bench.topology.lane_queue(Lane::Bulk)).await;
    assert!(passed_on.passed_on_since.unwrap() <= jiff::Timestamp::now(), "{passed_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_does_not_quote_the_whole_message() {
    let bench = Bench::new().await;
    let mut job = serde_json::to_value(bench.job("job-1", bench.scenes(1))).unwrap();
    job["kind"] = "k".repeat(1_040_000).into();
    bench.publish_body(Lane::Bulk, "job-1", job.to_string()).await;
    let worker = bench.start();
    let reason = bench.dead_letter().await.dead.unwrap();
    assert!(reason.message.len() < 10_000, "{} bytes", reason.message.len());
    let told = bench.outcome().await.error.unwrap();
    assert!(told.starts_with("message_malformed") && told.len() < 10_000, "{} bytes", told.len());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_take_turns() {
    let mut bench = Bench::new().await;
    bench.options.picture_memory = 4 << 20;
    let padded = |seed: u64, bytes: usize| {
        let mut file = crate::bench::scene_png(seed);
        file.resize(file.len() + bytes, 0);
        bench.file(&format!("large-{seed}.png"), &file)
    };
    // Some fit beside each other, one does not fit at all, and of one the planned size is wrong.
    let mut items: Vec<_> = (0..24).map(|seed| padded(seed, 300_000)).collect();
    items.push(padded(24, 9 << 20));
    items.push(padded(25, 2 << 20));
    items[25].size = Some(1);
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 26);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_as_large_as_it_may_be() {
    let mut bench = Bench::new().await;
    let largest = 100 << 20;
    bench.options.decode_limits.max_bytes = largest;
    let padded = |seed: u64, bytes: u64| {
        let item = bench.file(&format!("large-{seed}.png"), &crate::bench::scene_png(seed));
        let path = bench.folder.path().join(format!("large-{seed}.png"));
        std::fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
        captionfleet_proto::job::JobItem { size: Some(bytes), ..item }
    };
    let items = vec![padded(0, largest), padded(1, largest + 1)];
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let worker = bench.start();
    bench.outcome().await;
    assert_eq!(verdicts(&bench.rows("job-1")), ["ok", "too_large"]);
    assert_eq!(worker.fetched(), 2.0, "neither is read twice");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_cancelled_run_leaves_the_queue_without_rows() {
    let bench = Bench::new().await;
    let job = bench.job("job-1", bench.scenes(1));
    let marker = bench.archive().join(captionfleet_proto::layout::run_cancelled(&job.run));
    std::fs::create_dir_all(marker.parent().unwrap()).unwrap();
    std::fs::write(&marker, b"").unwrap();
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    let outcome = bench.outcome().await;
    assert!(outcome.error.unwrap().starts_with("cancelled") && outcome.part.is_none());
    assert_eq!(worker.fetched(), 0.0);
    std::fs::remove_file(&marker).unwrap();
    bench.publish(Lane::Bulk, &job).await;
    assert_eq!(bench.outcome().await.ok, 1);
    assert_eq!(worker.stop().await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_that_nobody_waits_for_any_more_keeps_its_turn() {
    let mut bench = Bench::new().await;
    let slow = crate::bench::slow_png();
    let since = Instant::now();
    decode(&slow, &bench.options.decode_limits).unwrap();
    let alone = since.elapsed();
    bench.options.item_deadline = alone / 8;
    let items = (0..4).map(|number| bench.file(&format!("slow-{number}.png"), &slow)).collect();
    crate::bench::engine();
    // Persons' pictures are decoded one at a time.
    bench.publish(Lane::Interactive, &bench.job("job-1", items)).await;
    let since = Instant::now();
    let worker = bench.start();
    bench.outcome().await;
    assert_eq!(verdicts(&bench.rows("job-1")), ["deadline"; 4]);
    // Three of them had to end before the fourth began.
    assert!(since.elapsed() > alone, "{:?} for four, {alone:?} for one", since.elapsed());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_outlasts_its_deadline_is_one_row() {
    let mut bench = Bench::new().await;
    let slow = crate::bench::slow_png();
    // Half of what it takes on this machine, which is many times what the others take.
    let since = Instant::now();
    decode(&slow, &bench.options.decode_limits).unwrap();
    bench.options.item_deadline = since.elapsed() / 2;
    let mut items = bench.scenes(2);
    items.insert(1, bench.file("slow.png", &slow));
    // The model is loaded outside of the deadline.
    crate::bench::engine();
    bench.publish(Lane::Bulk, &bench.job("job-1", items)).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 2);
    assert_eq!(verdicts(&bench.rows("job-1")), ["ok", "deadline", "ok"]);
    worker.stop().await;
}
