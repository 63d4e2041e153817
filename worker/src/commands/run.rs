//! `worker run`.

use std::process::ExitCode;
use std::sync::Arc;

use captionfleet_proto::broker::Broker;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::storage::Stores;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::run_worker;
use crate::config::{RunArgs, RunSettings};
use crate::demo_model;
use crate::spot;
use crate::telemetry::admin;
use crate::telemetry::scraped::tell_cost;
#[cfg(feature = "nvml")]
use crate::telemetry::scraped::tell_energy;

/// Ended by a second signal.
const EXIT_KILLED: u8 = 130;

pub(super) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let settings = RunSettings::resolve(args)?;
    let worker = settings.worker;
    let shutdown = stop_on_signals()?;
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

/// Cancelled by the first SIGTERM or SIGINT; the second one ends the process.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("draining: running pictures are finished, a second signal ends the worker at once");
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(i32::from(EXIT_KILLED));
    });
    Ok(token)
}
