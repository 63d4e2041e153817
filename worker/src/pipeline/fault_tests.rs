//! A picture over which the device hangs, and a decoder that panics: rows, and a worker that goes on. A device that breaks, or
//! is slow: no row. A picture that is tried alone: no company.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use captionfleet_model::ModelConfig;
use captionfleet_model::preprocess::{DecodeLimits, PreparedPicture, decode, prepare};
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{
    Broker, BrokerError, BrokerState, Consumer, Message, QueueDepth, QueueName,
};
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, JobKind, Lane, Query, RunId, SearchResult};
use captionfleet_proto::rows::{Projection, read_part};
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_proto::{codec, layout};
use captionfleet_world::{Scene, Split, render};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::fetch::Facts;
use super::task::{HandOver, Suspicion, Verdict};
use super::{Pipeline, PipelineOptions, PipelineParts, PipelineReport};
use crate::engine::fault_tests::{
    broken_engine, engine_that_fails_on, engine_that_hangs_in, engine_that_hangs_on,
    engine_without_numbers_for, is_at_a_step, slow_engine, sound_engine,
};
use crate::engine::{Engine, Stage};
use crate::telemetry::Metrics;
use crate::telemetry::readiness::Readiness;

/// A busy machine needs a while for the sound ones.
const DEADLINE: Duration = Duration::from_secs(3);

/// A pipeline with short patience.
pub(super) fn pipeline(engine: &Engine, broker: &EmbeddedBroker) -> Pipeline {
    let options = PipelineOptions {
        item_deadline: DEADLINE,
        grace: Duration::from_millis(200),
        ..PipelineOptions::default()
    };
    Pipeline::new(PipelineParts {
        broker: Arc::new(broker.clone()),
        stores: Arc::new(Stores::new(StorageOptions::default())),
        engine: engine.handle(),
        metrics: Metrics::new(),
        energy: None,
        readiness: Readiness::waiting_for(["broker"]),
        options,
    })
}

/// Runs a pipeline until `done`, or until its device is given up.
async fn work(engine: Engine, broker: &EmbeddedBroker, done: impl Future<Output = ()>) -> PipelineReport {
    run(pipeline(&engine, broker), &engine, done).await
}

async fn run(pipeline: Pipeline, engine: &Engine, done: impl Future<Output = ()>) -> PipelineReport {
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone()));
    let gone = engine.gone();
    tokio::select! { () = gone.cancelled() => {}, () = done => {} }
    stop.cancel();
    running.await.unwrap().unwrap()
}

fn prepared(engine: &Engine, bytes: &[u8]) -> PreparedPicture {
    let picture = decode(bytes, &DecodeLimits::default()).unwrap();
    prepare(&picture, &engine.handle().info().config)
}

/// A broker that has one job over three pictures in `folder`, those pictures, and where the job's part will lie.
pub(crate) async fn one_job(folder: &Path) -> (EmbeddedBroker, Vec<PathBuf>, PathBuf) {
    let broker = EmbeddedBroker::new(PipelineOptions::default().topology);
    broker.declare().await.unwrap();
    let pictures: Vec<_> = (0..3).map(|seed| folder.join(format!("{seed}.png"))).collect();
    for (seed, path) in (0..).zip(&pictures) {
        render(&Scene::sample(seed, Split::HeldOut), 160, 120).save(path).unwrap();
    }
    let items = pictures.iter().map(|path| JobItem::new(ItemUri::from_path(path).unwrap())).collect();
    let archive = folder.join("archive");
    let (id, run) = (JobId::new("job").unwrap(), RunId::new("run").unwrap());
    let part = archive.join(layout::part(&run, &id));
    let job = Job::caption(id, run, ArchiveUri::from_folder(&archive).unwrap(), CaptionJob::new(items));
    broker.publish(&lane(), Message::new("job", codec::encode_job(&job).unwrap())).await.unwrap();
    (broker, pictures, part)
}

/// Where that job waits.
pub(crate) fn lane() -> QueueName {
    PipelineOptions::default().topology.lane_queue(Lane::Bulk)
}

async fn written(part: &Path) {
    while !part.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn verdicts(part: &Path) -> Vec<String> {
    let rows = read_part(std::fs::read(part).unwrap().into(), Projection::All).unwrap();
    rows.into_iter().map(|row| row.error_code.unwrap_or_else(|| "ok".to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_over_which_the_device_hangs_is_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, part) = one_job(folder.path()).await;
    let culprit = prepared(&sound_engine(), &std::fs::read(&pictures[1]).unwrap());

    // The first life does not know which picture it was, the second knows, the third does the rest.
    let forever = std::future::pending();
    assert_eq!(work(engine_that_hangs_on(culprit.clone()), &broker, forever).await.jobs, 0);
    assert_eq!(broker.depth(&lane()).await.unwrap().messages, 1);
    let forever = std::future::pending();
    assert_eq!(work(engine_that_hangs_on(culprit.clone()), &broker, forever).await.jobs, 0);
    assert_eq!(work(engine_that_hangs_on(culprit), &broker, written(&part)).await.jobs, 1);
    assert_eq!(verdicts(&part), ["ok", "deadline", "ok"]);
    assert_eq!(broker.depth(&lane()).await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_device_makes_no_rows_and_its_job_is_for_another_worker() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, _, part) = one_job(folder.path()).await;
    // Together in the first life, alone in the others, for as often as its supervisor starts it again.
    for _ in 0..5 {
        let report = work(broken_engine(), &broker, std::future::pending()).await;
        assert_eq!((report.jobs, report.failed, report.retried), (0, 0, 0));
        assert_eq!(broker.depth(&lane()).await.unwrap().messages, 1);
        assert!(!part.exists());
    }
    assert_eq!(work(sound_engine(), &broker, written(&part)).await.jobs, 1);
    assert_eq!(verdicts(&part), ["ok"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_on_which_the_network_fails_is_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, part) = one_job(folder.path()).await;
    let culprit = prepared(&sound_engine(), &std::fs::read(&pictures[1]).unwrap());
    assert_eq!(work(engine_that_fails_on(culprit), &broker, written(&part)).await.jobs, 1);
    assert_eq!(verdicts(&part), ["ok", "internal", "ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_whose_embedding_is_not_a_number_is_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, part) = one_job(folder.path()).await;
    let culprit = prepared(&sound_engine(), &std::fs::read(&pictures[1]).unwrap());
    let engine = engine_without_numbers_for(culprit.clone());
    assert_eq!(work(engine, &broker, written(&part)).await.jobs, 1);
    assert_eq!(verdicts(&part), ["ok", "degenerate", "ok"]);

    // Whoever searches with it is told.
    let engine = engine_without_numbers_for(culprit);
    let pipeline = pipeline(&engine, &broker);
    let picture = Query::Image { item: JobItem::new(ItemUri::from_path(&pictures[1]).unwrap()) };
    let answer = searched(&pipeline, &broker, picture).await;
    assert!(matches!(&answer, SearchResult::Err { code, .. } if code == "degenerate"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_moves_is_waited_for_however_slow_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, _, part) = one_job(folder.path()).await;
    let since = std::time::Instant::now();
    assert_eq!(work(slow_engine(DEADLINE / 6), &broker, written(&part)).await.jobs, 1);
    assert_eq!(verdicts(&part), ["ok"; 3]);
    assert!(since.elapsed() > DEADLINE, "no answer took longer than its deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_a_picture_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, _, part) = one_job(folder.path()).await;
    let engine = sound_engine();
    let mut pipeline = pipeline(&engine, &broker);
    // No memory can hold a picture of this size: making room for it panics.
    let model = ModelConfig { image_size: usize::MAX, ..ModelConfig::clone(&pipeline.model) };
    pipeline.model = Arc::new(model);
    let report = run(pipeline, &engine, written(&part)).await;
    assert_eq!((report.jobs, report.failed), (1, 3));
    assert_eq!(verdicts(&part), ["internal"; 3]);
    assert_eq!(broker.depth(&lane()).await.unwrap().messages, 0);
}

/// A broker with a mistake in it that is met whenever somebody asks how much is in a mailbox.
struct Mistaken(EmbeddedBroker);

#[async_trait]
impl Broker for Mistaken {
    async fn declare(&self) -> Result<(), BrokerError> {
        self.0.declare().await
    }

    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        self.0.publish(queue, message).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.0.consume(queue, prefetch).await
    }

    async fn depth(&self, queue: &QueueName) -> Result<QueueDepth, BrokerError> {
        assert!(!queue.as_str().contains("asker"), "the mistake");
        self.0.depth(queue).await
    }

    async fn open_mailbox(&self, name: &str) -> Result<QueueName, BrokerError> {
        self.0.open_mailbox(name).await
    }

    async fn close_mailbox(&self, mailbox: &QueueName) -> Result<(), BrokerError> {
        self.0.close_mailbox(mailbox).await
    }

    async fn close(&self) {
        self.0.close().await;
    }

    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn state(&self) -> BrokerState {
        self.0.state()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_task_of_a_job_costs_an_attempt_of_that_job_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, part) = one_job(folder.path()).await;
    let archive = ArchiveUri::from_folder(&folder.path().join("archive")).unwrap();
    let items = vec![JobItem::new(ItemUri::from_path(&pictures[0]).unwrap())];
    let (id, run_id) = (JobId::new("awaited").unwrap(), RunId::new("run").unwrap());
    let mut job = Job::caption(id, run_id, archive, CaptionJob::new(items));
    job.deadline = Some(Timestamp::now() + Duration::from_secs(3600));
    let mut message = Message::new("awaited", codec::encode_job(&job).unwrap());
    message.reply_to = Some(broker.open_mailbox("asker").await.unwrap());
    broker.publish(&lane(), message).await.unwrap();

    let engine = sound_engine();
    let mut pipeline = pipeline(&engine, &broker);
    pipeline.broker = Arc::new(Mistaken(broker.clone()));
    let (metrics, topology) = (Arc::clone(&pipeline.metrics), pipeline.options.topology.clone());
    let met = async {
        written(&part).await;
        while metrics.panics.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let report = run(pipeline, &engine, met).await;
    assert_eq!((report.ok, report.failed, report.retried, report.dead), (3, 0, 1, 0));
    assert_eq!(verdicts(&part), ["ok"; 3]);
    let resting = topology.retry_queue(Lane::Bulk, 1).unwrap();
    assert_eq!(broker.depth(&resting).await.unwrap().messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_waits_for_its_turn_to_be_decoded_is_not_late() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, _) = one_job(folder.path()).await;
    let engine = sound_engine();
    let pipeline = pipeline(&engine, &broker);
    let item = JobItem::new(ItemUri::from_path(&pictures[0]).unwrap());
    let turns = &pipeline.budgets.of(Lane::Bulk).decodes;
    let of_others = turns.acquire_many(turns.available_permits() as u32).await.unwrap();
    let mut facts = Facts::planned(&item);
    let fetching = pipeline.fetch_in_time(&item, Lane::Bulk, true, &mut facts);
    let others_are_slow = async {
        tokio::time::sleep(DEADLINE * 2).await;
        drop(of_others);
    };
    let (fetched, ()) = tokio::join!(fetching, others_are_slow);
    assert!(fetched.is_ok(), "{:?}", fetched.err());
}

/// A search for `query`, and the message that asks for it.
fn search(query: Query, mailbox: &QueueName) -> (Job, Message) {
    let archive = ArchiveUri::from_folder(Path::new("/archive")).unwrap();
    let (id, run) = (JobId::new("search").unwrap(), RunId::new("run").unwrap());
    let job = Job::search(id, run, archive, query);
    let mut message = Message::new("search", codec::encode_job(&job).unwrap());
    message.reply_to = Some(mailbox.clone());
    (job, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_hangs_over_a_question_is_given_up_though_the_asker_has_left() {
    let topology = PipelineOptions::default().topology;
    let broker = EmbeddedBroker::new(topology.clone());
    broker.declare().await.unwrap();
    let mailbox = broker.open_mailbox("asker").await.unwrap();
    let (_, message) = search(Query::Text { text: "a red circle".to_owned() }, &mailbox);
    broker.publish(&topology.lane_queue(Lane::Interactive), message).await.unwrap();
    let engine = engine_that_hangs_in(Stage::Text);
    let handle = engine.handle();
    let asker_leaves = async {
        while !is_at_a_step(&handle) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        broker.close_mailbox(&mailbox).await.unwrap();
        std::future::pending().await
    };
    let working = run(pipeline(&engine, &broker), &engine, asker_leaves);
    tokio::time::timeout(Duration::from_secs(60), working).await.expect("it is noticed");
    assert!(handle.is_hung());
}

/// What a search for `query` comes to.
async fn searched(pipeline: &Pipeline, broker: &EmbeddedBroker, query: Query) -> SearchResult {
    let mailbox = broker.open_mailbox("asker").await.unwrap();
    let (job, message) = search(query, &mailbox);
    let JobKind::Search(search) = &job.kind else { unreachable!("a search was made") };
    let hand_over = HandOver {
        message,
        lane: Lane::Interactive,
        suspicion: Suspicion::None,
        delivery_count: 0,
        started: std::time::Instant::now(),
        started_at: Timestamp::now(),
    };
    assert!(matches!(pipeline.answer(&job, search, &hand_over).await, Verdict::Done));
    let mut replies = broker.consume(&mailbox, 1).await.unwrap();
    let reply = replies.next().await.unwrap().unwrap();
    let result = codec::decode_reply(&reply.message.body).unwrap().result;
    reply.ack().await.unwrap();
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn no_picture_of_a_search_is_looked_at_while_another_is_tried_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, pictures, _) = one_job(folder.path()).await;
    let engine = sound_engine();
    let mut pipeline = pipeline(&engine, &broker);
    pipeline.options.item_deadline = Duration::from_secs(60);
    let picture = || Query::Image { item: JobItem::new(ItemUri::from_path(&pictures[0]).unwrap()) };
    let text = || Query::Text { text: "a red circle".to_owned() };

    let alone = pipeline.isolation.write().await;
    let answer = searched(&pipeline, &broker, text()).await;
    assert!(matches!(answer, SearchResult::Ok { .. }), "a text waits for nobody: {answer:?}");
    drop(alone);
    assert!(matches!(searched(&pipeline, &broker, picture()).await, SearchResult::Ok { .. }));

    // It waits for as long as it may.
    pipeline.options.item_deadline = Duration::from_millis(300);
    let _alone = pipeline.isolation.write().await;
    let answer = searched(&pipeline, &broker, picture()).await;
    assert!(matches!(&answer, SearchResult::Err { code, .. } if code == "deadline"), "{answer:?}");
}
