//! Wiring: model, engine, pipeline, metrics; the only place that chooses and joins them.

mod device;
mod start;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use captionfleet_proto::broker::Broker;
use captionfleet_proto::storage::Stores;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{Engine, EngineHandle, EngineObserver, NullOptions};
use crate::model_choice::FoundModel;
use crate::pipeline::{Pipeline, PipelineOptions, PipelineParts, PipelineReport};
use crate::telemetry::energy::{self, EnergyCounter, EnergyMeter, tell_energy};
use crate::telemetry::readiness::Readiness;
use crate::telemetry::{Metrics, events};

pub use device::DeviceChoice;
pub(crate) use start::ReadyModel;
pub use start::{EngineSettings, start_engine};

/// How long the device may take, once its jobs are settled or given back, to end the step that it is at.
const LAST_STEP: Duration = Duration::from_secs(3);

/// Everything a worker is told.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Where and how large the engine is.
    pub engine: EngineSettings,
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
            engine: EngineSettings::default(),
            pipeline: PipelineOptions::default(),
            metrics: Metrics::new(),
            readiness: Readiness::waiting_for(["model", "broker"]),
        }
    }
}

/// What a worker serves.
#[derive(Debug)]
pub enum Served {
    /// A model.
    Model(FoundModel),
    /// Nothing, for load tests: captions are not captions.
    Null(NullOptions),
}

/// What a worker did in its life.
pub type WorkerReport = PipelineReport;

/// Runs a worker until `shutdown`, then drains it. While the model is loaded a shutdown ends it at once; the loading ends by itself.
///
/// The worker takes no job before the model has reproduced the bundle's golden tokens.
///
/// # Errors
/// When the bundle cannot be loaded, fails its self-test, or the pipeline cannot start.
pub async fn run_worker(
    config: WorkerConfig,
    broker: Arc<dyn Broker>,
    stores: Arc<Stores>,
    served: Served,
    shutdown: CancellationToken,
) -> anyhow::Result<WorkerReport> {
    let settings = config.engine;
    let observer: Arc<dyn EngineObserver> = config.metrics.clone();
    let engine = match served {
        Served::Model(model) => {
            let starting =
                model.load(&stores, move |bundle| start_engine(bundle, settings, observer.clone()));
            let Some(started) = shutdown.run_until_cancelled(starting).await else {
                return Ok(WorkerReport::default());
            };
            started?
        }
        Served::Null(options) => Engine::start_null(options, observer)?,
    };
    serve(config, engine, broker, stores, shutdown).await
}

/// The same with an engine that is started.
async fn serve(
    config: WorkerConfig,
    engine: Engine,
    broker: Arc<dyn Broker>,
    stores: Arc<Stores>,
    shutdown: CancellationToken,
) -> anyhow::Result<WorkerReport> {
    let handle = engine.handle();
    // Otherwise every picture would become a failed row.
    handle
        .check_prompt(&handle.info().prompts.caption, config.pipeline.max_tokens_default as usize)
        .context("this worker could caption nothing")?;
    config.readiness.ready("model");
    if handle.is_null() {
        events::null_engine_ready(handle.info());
    } else {
        events::model_ready(handle.info());
    }
    let energy = energy_counter(&handle, config.engine.device);
    if let Some(counter) = &energy {
        tell_energy(config.metrics.registry(), Arc::clone(counter));
    }
    // An engine that has ended takes the worker with it: what is in hand goes back to the queue.
    let stop = shutdown.child_token();
    let without_engine = engine.gone();
    let _watch = AbortOnDropHandle::new(tokio::spawn({
        let stop = stop.clone();
        async move {
            without_engine.cancelled().await;
            stop.cancel();
        }
    }));
    let pipeline = Pipeline::new(PipelineParts {
        broker,
        stores,
        engine: handle,
        metrics: config.metrics,
        readiness: config.readiness,
        energy: energy.map(EnergyMeter::start).transpose()?,
        options: config.pipeline,
    });
    let report = pipeline.run(stop).await?;
    if !engine.join_within(LAST_STEP).await? {
        events::device_left(LAST_STEP);
    }
    Ok(report)
}

/// What counts the energy of the device that the network is on.
fn energy_counter(engine: &EngineHandle, device: DeviceChoice) -> Option<Arc<dyn EnergyCounter>> {
    (engine.info().device == "cuda").then_some(())?;
    energy::gpu(device.gpu()?)
}

#[cfg(test)]
mod fault_tests;
