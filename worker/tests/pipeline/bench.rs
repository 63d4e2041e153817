//! One broker, one archive folder and one fleet of pipelines per test; the model is loaded once.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{Broker, Message, QueueName, Topology};
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, Lane, RunId};
use captionfleet_proto::outcome::JobOutcome;
use captionfleet_proto::rows::{Projection, Row, read_part};
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_proto::{codec, layout};
use captionfleet_worker::app::{DeviceChoice, EngineSettings, start_engine};
use captionfleet_worker::demo_model;
use captionfleet_worker::engine::{Engine, EngineHandle, Unobserved};
use captionfleet_worker::pipeline::{Pipeline, PipelineOptions, PipelineParts, PipelineReport};
use captionfleet_worker::telemetry::Metrics;
use captionfleet_worker::telemetry::energy::EnergyMeter;
use captionfleet_worker::telemetry::metrics::text_of;
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_world::{Scene, Split, render};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// The engine of all tests; it lives as long as the process.
pub fn engine() -> EngineHandle {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let start = || {
        let settings =
            EngineSettings { device: DeviceChoice::Cpu, slots: Some(4), ..EngineSettings::default() };
        start_engine(&demo_model::bundle().unwrap(), settings, Arc::new(Unobserved)).unwrap()
    };
    ENGINE.get_or_init(start).handle()
}

/// Polls until `look` finds something; a hang is a failure with a name.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub struct Bench {
    pub broker: EmbeddedBroker,
    pub topology: Topology,
    pub mailbox: QueueName,
    pub folder: TempDir,
    pub run: RunId,
    pub options: PipelineOptions,
    pub energy: Option<Arc<EnergyMeter>>,
    pub storage: StorageOptions,
}

/// A pipeline at work.
pub struct Running {
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<PipelineReport>>,
}

impl Running {
    /// Drains it.
    pub async fn stop(self) -> PipelineReport {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap()
    }

    /// Ends it as `kill -9` would: no task runs on, nothing is settled, the broker gets its deliveries back.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The value of a metric's line, zero if there is none.
    pub fn metric(&self, line: &str) -> f64 {
        let text = text_of(self.metrics.registry());
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// How many items were read.
    pub fn fetched(&self) -> f64 {
        self.metric("captionfleet_worker_stage_seconds_count{stage=\"fetch\"}")
    }
}

impl Bench {
    pub async fn new() -> Self {
        let retries = [Duration::from_millis(30), Duration::from_millis(40)];
        let topology = Topology::default().with_retry_delays(retries);
        let broker = EmbeddedBroker::new(topology.clone());
        broker.declare().await.unwrap();
        let options = PipelineOptions {
            topology: topology.clone(),
            worker_name: "bench".to_owned(),
            room_patience: Duration::from_millis(10),
            fetch_pauses: Vec::new(),
            ..PipelineOptions::default()
        };
        Self {
            mailbox: broker.open_mailbox("test").await.unwrap(),
            broker,
            topology,
            folder: tempfile::tempdir().unwrap(),
            run: RunId::new("run-1").unwrap(),
            options,
            energy: None,
            storage: StorageOptions::default(),
        }
    }

    pub fn start(&self) -> Running {
        self.start_until(CancellationToken::new())
    }

    /// The same, with a shutdown that may have begun.
    pub fn start_until(&self, shutdown: CancellationToken) -> Running {
        let (metrics, readiness) = (Metrics::new(), Readiness::waiting_for(["broker"]));
        let pipeline = Pipeline::new(PipelineParts {
            broker: Arc::new(self.broker.clone()),
            stores: Arc::new(Stores::new(self.storage.clone())),
            engine: engine(),
            metrics: Arc::clone(&metrics),
            readiness: Arc::clone(&readiness),
            energy: self.energy.clone(),
            options: self.options.clone(),
        });
        let task = tokio::spawn(pipeline.run(shutdown.clone()));
        Running { metrics, readiness, shutdown, task }
    }

    pub fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    pub fn archive_uri(&self) -> ArchiveUri {
        ArchiveUri::from_folder(&self.archive()).unwrap()
    }

    /// Writes a file among the sources.
    pub fn file(&self, name: &str, bytes: &[u8]) -> JobItem {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        item(&path)
    }

    /// Draws `count` scenes of the demo world.
    pub fn scenes(&self, count: u64) -> Vec<JobItem> {
        (0..count).map(|seed| self.file(&format!("scene-{seed}.png"), &scene_png(seed))).collect()
    }

    pub fn job(&self, id: &str, items: Vec<JobItem>) -> Job {
        let id = JobId::new(id).unwrap();
        Job::caption(id, self.run.clone(), self.archive_uri(), CaptionJob::new(items))
    }

    pub async fn publish(&self, lane: Lane, job: &Job) {
        self.publish_body(lane, job.id.as_str(), codec::encode_job(job).unwrap()).await;
    }

    pub async fn publish_body(&self, lane: Lane, id: &str, body: impl Into<bytes::Bytes>) {
        let mut message = Message::new(id, body);
        message.reply_to = Some(self.mailbox.clone());
        message.correlation_id = Some(format!("about-{id}"));
        self.broker.publish(&self.topology.lane_queue(lane), message).await.unwrap();
    }

    /// Takes everything from the lane and drops it unsettled, so that it comes back flagged.
    pub async fn hand_out_once(&self, lane: Lane) {
        let mut consumer = self.broker.consume(&self.topology.lane_queue(lane), 1).await.unwrap();
        drop(consumer.next().await.unwrap().unwrap());
    }

    /// The next message of a queue, acked.
    pub async fn take(&self, queue: &QueueName) -> Message {
        let mut consumer = self.broker.consume(queue, 1).await.unwrap();
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("nothing came to {queue}")).unwrap().unwrap();
        let message = delivery.message.clone();
        delivery.ack().await.unwrap();
        message
    }

    pub async fn outcome(&self) -> JobOutcome {
        codec::decode_outcome(&self.take(&self.mailbox).await.body).unwrap()
    }

    pub async fn dead_letter(&self) -> Message {
        self.take(&self.topology.dead_queue()).await
    }

    pub async fn waiting(&self, lane: Lane) -> u64 {
        self.broker.depth(&self.topology.lane_queue(lane)).await.unwrap().messages
    }

    pub fn part_path(&self, job: &str) -> PathBuf {
        self.archive().join(layout::part(&self.run, &JobId::new(job).unwrap()))
    }

    pub fn marker_path(&self, job: &str) -> PathBuf {
        self.archive().join(layout::quarantine(&self.run, &JobId::new(job).unwrap()))
    }

    pub fn rows(&self, job: &str) -> Vec<Row> {
        let bytes = std::fs::read(self.part_path(job)).unwrap();
        read_part(bytes.into(), Projection::All).unwrap()
    }
}

pub fn item(path: &Path) -> JobItem {
    JobItem::new(ItemUri::from_path(path).unwrap())
}

pub fn scene_png(seed: u64) -> Vec<u8> {
    png(&render(&Scene::sample(seed, Split::HeldOut), 160, 120))
}

pub fn png(picture: &image::RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A picture whose decoding takes long enough to be interrupted.
pub fn slow_png() -> Vec<u8> {
    png(&image::RgbImage::from_fn(9000, 9000, |x, _| image::Rgb([x as u8, 80, 7])))
}

/// Status and code of each row.
pub fn verdicts(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.error_code.clone().unwrap_or_else(|| row.status.as_str().to_owned())).collect()
}
