//! Moves jobs from the queue through the engine into the archive.
//!
//! ```text
//! intake ─► decode message ─► part there already? ─► items: fetch ─► decode ─► engine ─► rows ─► part ─► outcome ─► ack
//!    │            │                                    │ one at a time while in quarantine
//!    │            │                                    └ turn over: rows so far ─► kept, back to the queue
//!    └ drain      └► retry later or dead letter (one function decides: retry::classify)
//! ```
//!
//! Delivery is at least once, the effect happens once: a part's key is made from the job's id, and the delivery is
//! acked last. Whatever goes wrong with one picture is a row; whatever goes wrong around it is a [`Failure`].
//! What is not here: tensors, and any knowledge of which broker or store it is.

mod adapters;
mod answers;
mod archive_watch;
mod asker;
mod budget;
mod drain;
mod fetch;
mod in_hand;
mod infer;
mod intake;
mod item;
mod item_failure;
mod look_ahead;
mod notices;
mod outcome;
mod patience;
mod prompt;
mod quarantine;
mod rerank;
mod retry;
mod route;
mod row;
mod search;
mod segment;
mod settle;
mod source;
mod spool;
mod spool_folder;
mod spool_watch;
mod task;
mod timeline;
mod turn;
mod viewing;
mod watch;

#[cfg(test)]
pub(crate) mod fault_tests;
#[cfg(test)]
mod outage_tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use captionfleet_model::ModelConfig;
use captionfleet_model::preprocess::{DecodeLimits, Picture, PreparedPicture, prepare};
use captionfleet_proto::broker::{Broker, Topology};
use captionfleet_proto::job::Lane;
use captionfleet_proto::storage::Stores;
use futures::future::join_all;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

pub use retry::{Failure, classify};
pub use spool::SpoolOptions;

use self::adapters::Adapters;
use self::archive_watch::ArchiveWatch;
use self::budget::Budgets;
use self::drain::Drain;
use self::in_hand::InHand;
use self::notices::Notices;
use self::spool::Spool;
use crate::engine::EngineHandle;
use crate::machine;
use crate::telemetry::Metrics;
use crate::telemetry::energy::EnergyMeter;
use crate::telemetry::readiness::Readiness;
use crate::video::VideoLimits;

/// What a pipeline connects.
pub struct PipelineParts {
    /// Where jobs come from.
    pub broker: Arc<dyn Broker>,
    /// Where pictures and archives are.
    pub stores: Arc<Stores>,
    /// What captions and embeds.
    pub engine: EngineHandle,
    /// Who counts.
    pub metrics: Arc<Metrics>,
    /// Who is told whether broker and archive can be used.
    pub readiness: Arc<Readiness>,
    /// Who measures the device's energy; nobody where it cannot be.
    pub energy: Option<Arc<EnergyMeter>>,
    /// How much at a time, and how long.
    pub options: PipelineOptions,
}

/// How much a pipeline does at a time, and how long it waits.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Names of the queues.
    pub topology: Topology,
    /// Jobs in hand of each of the lanes for runs.
    pub prefetch_bulk: u16,
    /// Jobs of the interactive lane in hand.
    pub prefetch_interactive: u16,
    /// Most bytes of pictures on their way to the device, as files, as pixels and waiting; on a CPU fewer where its budget keeps fewer. A
    /// picture that takes more is read alone, and decoded alone.
    pub picture_memory: u64,
    /// The most bulk pictures that are read and decoded ahead of the device; how many it is follows from measured times.
    pub most_ahead: usize,
    /// Longest that reading and decoding of an item may take, and that the device may stay in one step: then it hangs.
    pub item_deadline: Duration,
    /// How long a job is held at most; then what is done of it is kept, and the job goes back to its queue. With an item's
    /// deadline it must stay well below the time after which the broker gives up a consumer.
    pub hold_limit: Duration,
    /// How long running jobs may go on after the shutdown signal.
    pub grace: Duration,
    /// This worker's name in rows, outcomes and markers; no other worker of the fleet may have it.
    pub worker_name: String,
    /// Longest answer in tokens when the job does not say.
    pub max_tokens_default: u32,
    /// Largest picture, and its file, that is read and decoded.
    pub decode_limits: DecodeLimits,
    /// What a video may cost.
    pub video_limits: VideoLimits,
    /// Where videos of buckets are copied to.
    pub spool: SpoolOptions,
    /// Most bytes of adapters that are kept in memory while no job uses them; fewer where the memory budget leaves fewer.
    pub adapter_memory: u64,
    /// How long a finished part is held at least while the archive cannot take it (its turn is the limit otherwise), and a video
    /// waits for room on the disk of the copies, before the job is retried as a whole.
    pub room_patience: Duration,
    /// Pauses between attempts to read one item while its store fails; then the job is retried as a whole.
    pub fetch_pauses: Vec<Duration>,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            topology: Topology::default(),
            prefetch_bulk: 4,
            prefetch_interactive: 8,
            picture_memory: 4 << 30,
            most_ahead: 96,
            item_deadline: Duration::from_secs(120),
            hold_limit: Duration::from_secs(900),
            grace: Duration::from_secs(25),
            worker_name: machine::process_name(),
            max_tokens_default: 64,
            decode_limits: DecodeLimits::default(),
            video_limits: VideoLimits::default(),
            spool: SpoolOptions::default(),
            adapter_memory: 1 << 30,
            room_patience: Duration::from_secs(30),
            fetch_pauses: [500, 1000, 2000].map(Duration::from_millis).to_vec(),
        }
    }
}

/// What a pipeline did from start to shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineReport {
    /// Jobs settled: parts written or found, searches answered.
    pub jobs: u64,
    /// Rows with status `ok`.
    pub ok: u64,
    /// Rows with status `failed`.
    pub failed: u64,
    /// Rows with status `skipped`.
    pub skipped: u64,
    /// Jobs sent to a delayed-retry queue.
    pub retried: u64,
    /// Jobs given up.
    pub dead: u64,
}

/// Moves jobs; see the module.
pub struct Pipeline {
    broker: Arc<dyn Broker>,
    stores: Arc<Stores>,
    engine: EngineHandle,
    /// The network's dimensions, apart from the engine: a decoder that hangs must not keep the engine alive.
    model: Arc<ModelConfig>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    energy: Option<Arc<EnergyMeter>>,
    options: PipelineOptions,
    budgets: Budgets,
    in_hand: InHand,
    notices: Notices,
    spool: Spool,
    adapters: Adapters,
    archive_watch: ArchiveWatch,
    /// Held shared by every item in normal work, exclusively by a job in quarantine: when the process dies, the
    /// item that the marker names was the only one that can have killed it.
    isolation: RwLock<()>,
    /// Tells this process from an earlier one of the same name.
    life: String,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    jobs: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
}

impl Pipeline {
    /// Connects the parts; nothing runs yet.
    pub fn new(parts: PipelineParts) -> Self {
        let PipelineParts { broker, stores, engine, metrics, readiness, energy, options } = parts;
        let model = Arc::new(engine.info().config.clone());
        let memory = &engine.info().memory;
        let budgets = Budgets::new(
            options.most_ahead,
            memory.pictures.map_or(options.picture_memory, |kept| kept.min(options.picture_memory)),
            prepared_bytes(&model),
            engine.info().slots,
            memory.vision.rows,
        );
        let life = format!(
            "{}/{}/{}",
            options.worker_name,
            std::process::id(),
            jiff::Timestamp::now().as_nanosecond()
        );
        let spool = Spool::new(options.spool.clone());
        // Idle ones are kept in what the engine leaves of its budget.
        let adapters = Adapters::new(memory.spare(options.adapter_memory));
        Self {
            notices: Notices::new(Arc::clone(&broker)),
            broker,
            stores,
            engine,
            spool,
            adapters,
            archive_watch: ArchiveWatch::default(),
            model,
            metrics,
            readiness,
            energy,
            options,
            budgets,
            in_hand: InHand::default(),
            isolation: RwLock::new(()),
            life,
            tally: Tally::default(),
        }
    }

    /// Works until `shutdown`, then drains: takes nothing new, lets running jobs finish within the grace period and
    /// returns the rest to their queues.
    ///
    /// # Errors
    /// If the queues cannot be declared or consumed at the start, for a reason that people do not mend while the worker waits.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<PipelineReport> {
        let Some(declared) = shutdown.run_until_cancelled(watch::declare(&self)).await else {
            return Ok(PipelineReport::default());
        };
        declared?;
        let pipeline = Arc::new(self);
        let drain = Drain::new(shutdown.child_token());
        let watch = tokio::spawn(watch::broker(Arc::clone(&pipeline), drain.clone()));
        let stores = tokio::spawn(watch::stores(Arc::clone(&pipeline), drain.clone()));
        let lanes = Lane::ALL.map(|lane| intake::consume_lane(Arc::clone(&pipeline), lane, drain.clone()));
        let consumed = tokio::select! {
            consumed = join_all(lanes) => consumed,
            never = watch::device(&pipeline) => match never {},
        };
        // All lanes may have ended because the broker was closed.
        drain.soft.cancel();
        // They ended with the drain; waiting for them lets go of the last handles to the engine.
        let _ = tokio::join!(watch, stores);
        pipeline.notices.finish(drain::TIDY_UP).await;
        consumed.into_iter().collect::<anyhow::Result<()>>()?;
        Ok(pipeline.tally.report())
    }
}

/// Bytes of a picture that waits for the device.
fn prepared_bytes(model: &ModelConfig) -> u64 {
    let smallest = Picture { width: 1, height: 1, rgb: vec![0; 3] };
    let PreparedPicture { caption, retrieval, .. } = prepare(&smallest, model);
    (caption.rgb.len() + retrieval.map_or(0, |square| square.rgb.len())) as u64
}

impl Tally {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn report(&self) -> PipelineReport {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PipelineReport {
            jobs: read(&self.jobs),
            ok: read(&self.ok),
            failed: read(&self.failed),
            skipped: read(&self.skipped),
            retried: read(&self.retried),
            dead: read(&self.dead),
        }
    }
}
