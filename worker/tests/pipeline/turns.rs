//! Jobs that take longer than a worker holds a job.

use std::time::Duration;

use captionfleet_proto::broker::{Broker as _, Message};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId, Lane, Sampling};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{EmbeddingShape, Row, write_unfinished};

use crate::bench::{Bench, verdicts};
use crate::film::Film;

const TURNS: &str = "captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"turn_over\"}";

fn unfinished(bench: &Bench, job: &str) -> std::path::PathBuf {
    bench.archive().join(layout::unfinished(&bench.run, &JobId::new(job).unwrap()))
}

/// Publishes a job as one that somebody has held before.
async fn publish_again(bench: &Bench, job: &Job) {
    let mut message = Message::new(job.id.as_str(), codec::encode_job(job).unwrap()).again();
    message.reply_to = Some(bench.mailbox.clone());
    bench.broker.publish(&bench.topology.lane_queue(Lane::Bulk), message).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_outlasts_its_turn_goes_on_where_it_stopped() {
    let mut bench = Bench::new().await;
    let job = bench.job("job-1", bench.scenes(40));
    bench.publish(Lane::Bulk, &job).await;
    let undisturbed = bench.start();
    assert_eq!(bench.outcome().await.ok, 40);
    assert_eq!(undisturbed.metric(TURNS), 0.0);
    undisturbed.stop().await;
    let expected = bench.rows("job-1");
    std::fs::remove_file(bench.part_path("job-1")).unwrap();

    // Over before it began: every turn does what comes first.
    bench.options.hold_limit = Duration::ZERO;
    bench.publish(Lane::Bulk, &job).await;
    let worker = bench.start();
    let outcome = bench.outcome().await;
    assert_eq!((outcome.ok, outcome.attempts), (40, 1), "a turn is no attempt that failed");
    assert!(worker.metric(TURNS) >= 1.0);
    let report = worker.stop().await;
    assert_eq!((report.jobs, report.retried, report.dead), (1, 0, 0));
    let said = |rows: &[Row]| -> Vec<_> {
        rows.iter().map(|row| (row.item.clone(), row.caption.clone(), row.embedding.clone())).collect()
    };
    assert_eq!(said(&bench.rows("job-1")), said(&expected));
    assert!(!unfinished(&bench, "job-1").exists());
    assert_eq!(bench.waiting(Lane::Bulk).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_in_quarantine_is_one_item_at_least_and_none_is_tried_twice() {
    let mut bench = Bench::new().await;
    bench.options.hold_limit = Duration::ZERO;
    bench.publish(Lane::Bulk, &bench.job("job-1", bench.scenes(4))).await;
    bench.hand_out_once(Lane::Bulk).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 4);
    assert_eq!((worker.metric(TURNS), worker.fetched()), (3.0, 4.0));
    assert_eq!(verdicts(&bench.rows("job-1")), ["ok"; 4]);
    worker.stop().await;
    assert!(!unfinished(&bench, "job-1").exists() && !bench.marker_path("job-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_counts_if_the_same_model_said_it() {
    let bench = Bench::new().await;
    bench.publish(Lane::Bulk, &bench.job("job-1", bench.scenes(3))).await;
    let worker = bench.start();
    bench.outcome().await;
    let rows = bench.rows("job-1");
    for (id, bundle, kept) in
        [("job-2", rows[1].bundle.clone(), true), ("job-3", Some("other".to_owned()), false)]
    {
        let earlier = Row { caption: Some("said in an earlier turn".to_owned()), bundle, ..rows[1].clone() };
        let shape = EmbeddingShape { vectors: 1, dim: earlier.embedding.as_ref().unwrap().len() as u32 };
        let place = unfinished(&bench, id);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, write_unfinished(vec![(1, vec![earlier])], shape).unwrap()).unwrap();
        publish_again(&bench, &bench.job(id, bench.scenes(3))).await;
        assert_eq!(bench.outcome().await.ok, 3);
        let captions: Vec<_> = bench.rows(id).into_iter().map(|row| row.caption.unwrap()).collect();
        assert_eq!(captions[1] == "said in an earlier turn", kept, "{captions:?}");
        assert_eq!([&captions[0], &captions[2]], [0, 2].map(|at: usize| rows[at].caption.as_ref().unwrap()));
        assert!(!place.exists());
    }
    // What cannot be read is done again.
    std::fs::write(unfinished(&bench, "job-4"), b"torn").unwrap();
    publish_again(&bench, &bench.job("job-4", bench.scenes(3))).await;
    assert_eq!(bench.outcome().await.ok, 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_show_nothing_are_done_once() {
    let mut bench = Bench::new().await;
    let film = Film::of_scenes(&bench, "short.mp4", &[20]);
    // The film is shorter than was planned: the segments behind its end have no rows.
    let segment = |minute: u64| film.segment(minute * 60_000, Some(60_000), Sampling::default());
    bench.options.hold_limit = Duration::ZERO;
    bench.publish(Lane::Bulk, &bench.job("job-1", (0..4).map(segment).collect())).await;
    bench.hand_out_once(Lane::Bulk).await;
    let worker = bench.start();
    assert_eq!(bench.outcome().await.ok, 1);
    assert_eq!(worker.metric(TURNS), 3.0, "one item a turn");
    worker.stop().await;
    assert!(!unfinished(&bench, "job-1").exists());
}
