//! `worker run`.

use std::process::ExitCode;
use std::sync::Arc;

use captionfleet_proto::broker::Broker;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::storage::Stores;

use super::stopping;
use crate::app::run_worker;
use crate::config::{RunArgs, RunSettings};
use crate::demo_model;
use crate::spot;
use crate::telemetry::admin;
use crate::telemetry::scraped::tell_cost;
#[cfg(feature = "nvml")]
use crate::telemetry::scraped::tell_energy;

pub(super) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let settings = RunSettings::resolve(args)?;
    let worker = settings.worker;
    let shutdown = stopping::on_signal(|| {
        tracing::info!("draining: running pictures are finished, a second signal ends the worker at once");
    })?;
    tokio::spawn(spot::watch(settings.spot, shutdown.clone()));
    if let Some(price) = args.price_per_hour {
        tell_cost(worker.metrics.registry(), price);
    }
    #[cfg(feature = "nvml")]
    tell_energy(worker.metrics.registry());
    let _admin =
        admin::serve(args.admin_addr, worker.metrics.registry().clone(), worker.readiness.clone()).await?;

    let mut options = RabbitMqOptions::new(settings.broker, settings.topology);
    options.connection_name = format!("captionfleet worker {}", worker.pipeline.worker_name);
    let stores = Arc::new(Stores::new(settings.storage));
    // Both take their time, and each can fail at once: neither waits for the other.
    let (broker, bundle) = tokio::try_join!(
        async { Ok::<_, anyhow::Error>(RabbitMq::connect(options).await?) },
        settings.model.resolve(&stores),
    )?;
    let broker: Arc<dyn Broker> = Arc::new(broker);
    if settings.model.is_demo() {
        tracing::info!("{}", demo_model::NOTICE);
    }
    let report = run_worker(worker, broker.clone(), stores, bundle, shutdown).await?;
    broker.close().await;
    tracing::info!(
        jobs = report.jobs,
        items.ok = report.ok,
        items.failed = report.failed,
        jobs.retried = report.retried,
        jobs.dead = report.dead,
        "drained"
    );
    Ok(ExitCode::SUCCESS)
}
