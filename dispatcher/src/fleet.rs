//! Queue, storage and, without a broker, a worker in this process: the only place that chooses implementations.

use crate::config::{FleetSettings, UsageError};
use anyhow::Context as _;
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, Topology};
use captionfleet_proto::rows::EmbeddingShape;
use captionfleet_proto::storage::Stores;
use captionfleet_worker::app::{Served, WorkerConfig, run_worker};
use captionfleet_worker::model_choice::{FoundModel, ModelChoice};
use captionfleet_worker::pipeline::PipelineOptions;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Queue and storage of one command.
pub struct Fleet {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// Its queues' names.
    pub topology: Topology,
    /// The storage.
    pub stores: Arc<Stores>,
    worker: Option<LocalWorker>,
}

/// The worker in this process.
struct LocalWorker {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

/// A model that was found and checked.
pub struct Model {
    /// Its bundle, and where that came from.
    pub found: FoundModel,
    /// Whether it is the demo model.
    pub is_demo: bool,
}

impl Model {
    /// Finds the model that the user named, or the demo model.
    pub async fn resolve(settings: &FleetSettings, stores: &Stores) -> anyhow::Result<Self> {
        let choice = ModelChoice::parse(settings.model.as_deref())?;
        let found = choice.resolve(stores).await?;
        Ok(Self { found, is_demo: choice.is_demo() })
    }

    /// The bundle's id.
    pub fn id(&self) -> String {
        self.found.bundle().id().to_owned()
    }

    /// The space of its embeddings; `None` if it has no retrieval heads.
    pub fn embedding_space(&self) -> Option<&str> {
        self.found.bundle().manifest().embedding_space.as_deref()
    }

    /// How its embeddings are arranged.
    pub fn embedding_shape(&self) -> Option<EmbeddingShape> {
        let retrieval = self.found.bundle().manifest().config.retrieval.as_ref()?;
        Some(EmbeddingShape {
            vectors: retrieval.qformer.num_query_tokens as u32,
            dim: retrieval.embed_dim as u32,
        })
    }
}

impl Fleet {
    /// The queue in this process; nobody consumes it until [`Self::start_worker`].
    pub async fn embedded(settings: &FleetSettings, stores: Arc<Stores>) -> anyhow::Result<Self> {
        let topology = topology(&settings.queue_prefix)?;
        let broker: Arc<dyn Broker> = Arc::new(EmbeddedBroker::new(topology.clone()));
        broker.declare().await?;
        Ok(Self { broker, topology, stores, worker: None })
    }

    /// RabbitMQ, connected and declared.
    pub async fn remote(settings: &FleetSettings, stores: Arc<Stores>) -> anyhow::Result<Self> {
        Self::remote_within(Duration::ZERO, settings, stores).await
    }

    /// The same; a broker that is not there yet is waited for as long as `patience` lasts.
    pub async fn remote_within(
        patience: Duration,
        settings: &FleetSettings,
        stores: Arc<Stores>,
    ) -> anyhow::Result<Self> {
        let topology = topology(&settings.queue_prefix)?;
        let mut options = RabbitMqOptions::new(settings.broker.clone(), topology.clone());
        "captionfleet dispatcher".clone_into(&mut options.connection_name);
        options.patience = patience;
        let broker: Arc<dyn Broker> = Arc::new(RabbitMq::connect(options).await?);
        broker.declare().await?;
        Ok(Self { broker, topology, stores, worker: None })
    }

    /// The same queue and storage, without the worker: closing it is up to the owner.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            topology: self.topology.clone(),
            stores: self.stores.clone(),
            worker: None,
        }
    }

    /// Starts the worker in this process, which counts in `metrics`.
    pub fn start_worker(&mut self, model: Model, metrics: Arc<WorkerMetrics>) {
        let pipeline = PipelineOptions { topology: self.topology.clone(), ..PipelineOptions::default() };
        let config = WorkerConfig { metrics, pipeline, ..WorkerConfig::default() };
        let shutdown = CancellationToken::new();
        // A job that fails is tried again, and says so meanwhile.
        let stores = Arc::new(Stores::new(self.stores.options().brief()));
        let (broker, stop) = (self.broker.clone(), shutdown.clone());
        let served = Served::Model(model.found);
        let task =
            tokio::spawn(async move { run_worker(config, broker, stores, served, stop).await.map(drop) });
        self.worker = Some(LocalWorker { task, shutdown });
    }

    /// Ends only when the worker in this process has ended, and says why; never when there is none.
    pub async fn worker_gone(&mut self) -> anyhow::Error {
        let Some(worker) = &mut self.worker else {
            return std::future::pending().await;
        };
        let ended = (&mut worker.task).await;
        self.worker = None;
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("the worker in this process stopped before its work was done"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::anyhow!("the worker in this process failed: {error}"),
        }
    }

    /// Lets the worker in this process finish what it has begun. Harmless when there is none.
    pub async fn drain_worker(&mut self) -> anyhow::Result<()> {
        match self.worker.take() {
            Some(worker) => {
                worker.shutdown.cancel();
                worker.task.await.context("the worker in this process failed")?
            }
            None => Ok(()),
        }
    }

    /// Drains the worker in this process and closes the queue.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let ended = self.drain_worker().await;
        self.broker.close().await;
        ended
    }
}

/// The queues' names for a prefix.
pub fn topology(prefix: &str) -> Result<Topology, UsageError> {
    Topology::with_prefix(prefix).map_err(|error| UsageError::new(format!("--queue-prefix: {error}")))
}
