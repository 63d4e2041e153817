//! Candidates are judged one by one, and work that nobody waits for is left off.

use std::time::Duration;

use captionfleet_proto::broker::Broker as _;
use captionfleet_proto::codec;
use captionfleet_proto::job::{
    Job, JobId, JobItem, Lane, Match, Query, RerankJob, RerankReply, RerankResult,
};
use captionfleet_world::texts::retrieval_text;
use captionfleet_world::{Scene, Split};
use jiff::Timestamp;

use crate::bench::{Bench, Running, engine, eventually, item, slow_png};

const DROPPED: &str = "captionfleet_worker_jobs_total{kind=\"rerank\",outcome=\"cancelled\"}";

fn job(bench: &Bench, text: &str, items: Vec<JobItem>) -> Job {
    let rerank = RerankJob { text: text.to_owned(), items };
    Job::rerank(JobId::new("rerank-1").unwrap(), bench.run.clone(), bench.archive_uri(), rerank)
}

async fn ask(bench: &Bench, job: &Job) -> RerankReply {
    bench.publish(Lane::Interactive, job).await;
    codec::decode_rerank_reply(&bench.take(&bench.mailbox).await.body).unwrap()
}

async fn is_dropped(bench: &Bench, worker: &Running) {
    eventually("the job is dropped", async || (worker.metric(DROPPED) > 0.0).then_some(())).await;
    eventually("it leaves the queue", async || (bench.waiting(Lane::Interactive).await == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_that_a_text_describes_is_the_likeliest() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let mut items = bench.scenes(6);
    items.insert(2, item(&bench.folder.path().join("nowhere.png")));
    let text = retrieval_text(&Scene::sample(4, Split::HeldOut));
    let RerankResult::Ok { matches, bundle } = ask(&bench, &job(&bench, &text, items)).await.result else {
        panic!("no judgements");
    };
    assert_eq!(bundle, engine().info().bundle);
    assert_eq!(matches.len(), 7);
    let Match::Failed { code, .. } = &matches[2] else { panic!("there is no such picture") };
    assert_eq!(code, "not_found");
    let odds = |at: usize| match &matches[at] {
        Match::Judged { log_odds } => *log_odds,
        Match::Failed { message, .. } => panic!("{message}"),
    };
    // The missing picture stands before the fourth.
    assert!(odds(5) > 0.0, "{matches:?}");
    assert!([0, 1, 3, 4, 6].iter().all(|at| odds(*at) < odds(5)), "{matches:?}");
    assert_eq!(worker.stop().await.jobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_judged_at_all_is_answered_too() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let mut job = job(&bench, "a red circle", bench.scenes(1));
    job.bundle = Some("0".repeat(64));
    let RerankResult::Err { code, .. } = ask(&bench, &job).await.result else { panic!("judged by another") };
    assert_eq!(code, "bundle_mismatch");
    assert_eq!(worker.stop().await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_left_off_when_its_asker_leaves() {
    let bench = Bench::new().await;
    let slow = slow_png();
    let items: Vec<_> = (0..60).map(|number| bench.file(&format!("slow-{number}.png"), &slow)).collect();
    bench.publish(Lane::Interactive, &job(&bench, "a red circle", items)).await;
    let worker = bench.start();
    eventually("the work has begun", async || (worker.fetched() > 0.0).then_some(())).await;
    bench.broker.close_mailbox(&bench.mailbox).await.unwrap();
    is_dropped(&bench, &worker).await;
    assert!(worker.fetched() < 60.0, "the rest is not even read");
    assert_eq!(worker.stop().await.jobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_after_its_deadline() {
    let bench = Bench::new().await;
    let mut late = job(&bench, "a red circle", bench.scenes(2));
    late.deadline = Some(Timestamp::now() - Duration::from_secs(1));
    bench.publish(Lane::Interactive, &late).await;
    let query = Query::Text { text: "a red circle".to_owned() };
    let id = JobId::new("search-1").unwrap();
    let mut search = Job::search(id, bench.run.clone(), bench.archive_uri(), query);
    search.deadline = late.deadline;
    bench.publish(Lane::Interactive, &search).await;
    let mut caption = bench.job("caption-1", bench.scenes(1));
    caption.deadline = late.deadline;
    bench.publish(Lane::Interactive, &caption).await;
    let worker = bench.start();
    is_dropped(&bench, &worker).await;
    for kind in ["search", "caption"] {
        let dropped = format!("captionfleet_worker_jobs_total{{kind=\"{kind}\",outcome=\"cancelled\"}}");
        eventually(kind, async || (worker.metric(&dropped) > 0.0).then_some(())).await;
    }
    assert!(!bench.part_path("caption-1").exists() && worker.fetched() == 0.0);
    let report = worker.stop().await;
    assert_eq!((report.jobs, report.dead), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_time_is_answered() {
    let bench = Bench::new().await;
    let worker = bench.start();
    let mut caption = bench.job("caption-1", bench.scenes(1));
    caption.deadline = Some(Timestamp::now() + Duration::from_secs(600));
    bench.publish(Lane::Interactive, &caption).await;
    assert_eq!(bench.outcome().await.ok, 1);
    worker.stop().await;
}
