//! Wiring: model, engine, pipeline, metrics; the only place that chooses and joins them.

use std::sync::Arc;

use anyhow::Context;
use candle_core::Device;
use captionfleet_model::bundle::{Bundle, LoadedModel};
use captionfleet_proto::broker::Broker;
use captionfleet_proto::storage::Stores;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, EngineObserver, EngineOptions};
use crate::pipeline::{Pipeline, PipelineOptions, PipelineParts, PipelineReport};
use crate::telemetry::Metrics;
use crate::telemetry::admin::Readiness;

/// Where the network runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is not a device: use auto, cpu, cuda or cuda:N")),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When a GPU was asked for and there is none, or this program was built without CUDA.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(Device::cuda_if_available(0).unwrap_or(Device::Cpu)),
            Self::Cuda(index) => Device::new_cuda(index).with_context(|| {
                format!("GPU {index} cannot be used (this needs a build with --features cuda and an NVIDIA driver)")
            }),
        }
    }
}

/// Everything a worker is told.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Where the network runs.
    pub device: DeviceChoice,
    /// Sequences that decode together; from the model's size if not given.
    pub slots: Option<usize>,
    /// How jobs are moved.
    pub pipeline: PipelineOptions,
    /// Where the worker counts; a fresh set unless shared.
    pub metrics: Arc<Metrics>,
    /// Where the worker says what it waits for.
    pub readiness: Arc<Readiness>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            slots: None,
            pipeline: PipelineOptions::default(),
            metrics: Metrics::new(),
            readiness: Readiness::waiting_for(["model", "broker"]),
        }
    }
}

/// What a worker did in its life.
pub type WorkerReport = PipelineReport;

/// Runs a worker until `shutdown`, then drains it.
///
/// The worker takes no job before the model has reproduced the bundle's golden tokens.
///
/// # Errors
/// When the bundle cannot be loaded, fails its self-test, or the pipeline cannot start.
pub async fn run_worker(
    config: WorkerConfig,
    broker: Arc<dyn Broker>,
    stores: Arc<Stores>,
    bundle: Bundle,
    shutdown: CancellationToken,
) -> anyhow::Result<WorkerReport> {
    let (device, slots) = (config.device, config.slots);
    let observer: Arc<dyn EngineObserver> = config.metrics.clone();
    let engine =
        tokio::task::spawn_blocking(move || start_engine(&bundle, device, slots, observer)).await??;
    config.readiness.ready("model");
    let handle = engine.handle();
    tracing::info!(
        bundle.id = handle.info().bundle,
        device = handle.info().device,
        slots = handle.info().slots,
        "model ready"
    );
    let pipeline = Pipeline::new(PipelineParts {
        broker,
        stores,
        engine: handle,
        metrics: config.metrics,
        readiness: config.readiness,
        options: config.pipeline,
    });
    let report = pipeline.run(shutdown).await?;
    tokio::task::spawn_blocking(move || engine.join()).await?;
    Ok(report)
}

/// Loads a bundle, checks that it says what it said when it was packed, and starts the device thread.
///
/// # Errors
/// When any of these fails.
pub fn start_engine(
    bundle: &Bundle,
    device: DeviceChoice,
    slots: Option<usize>,
    observer: Arc<dyn EngineObserver>,
) -> anyhow::Result<Engine> {
    let loaded: LoadedModel = bundle.load(&device.open()?)?;
    loaded.self_test()?;
    let options = EngineOptions::for_model(loaded.model.config()).with_slots(slots);
    Ok(Engine::start(loaded, options, observer)?)
}
