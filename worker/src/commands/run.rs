//! `worker run`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use captionfleet_proto::broker::Broker;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::storage::Stores;

use super::stopping;
use crate::app::{Served, run_worker};
use crate::config::{RunArgs, RunSettings, ServedChoice};
use crate::demo_model;
use crate::spot;
use crate::telemetry::admin;
use crate::telemetry::scraped::{tell_cost, tell_null_engine};

/// How long a worker that is started waits for a broker that is not there yet.
const BROKER_PATIENCE: Duration = Duration::from_mins(5);

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
    let _admin =
        admin::serve(args.admin_addr, worker.metrics.registry().clone(), worker.readiness.clone()).await?;

    let mut options = RabbitMqOptions::new(settings.broker, settings.topology);
    options.connection_name = format!("captionfleet worker {}", worker.pipeline.worker_name);
    options.patience = BROKER_PATIENCE;
    let stores = Arc::new(Stores::new(settings.storage));
    let served = async {
        match &settings.served {
            ServedChoice::Model(choice) => {
                let model = choice.resolve(&stores).await?;
                if choice.is_demo() {
                    tracing::info!("{}", demo_model::NOTICE);
                }
                Ok::<_, anyhow::Error>(Served::Model(model))
            }
            ServedChoice::Null(options) => {
                tell_null_engine(worker.metrics.registry());
                Ok(Served::Null(*options))
            }
        }
    };
    // Both take their time, and each can fail at once: neither waits for the other.
    let gathering = async {
        tokio::try_join!(async { Ok::<_, anyhow::Error>(RabbitMq::connect(options).await?) }, served)
    };
    let Some(gathered) = shutdown.run_until_cancelled(gathering).await else {
        tracing::info!("stopped before any job was taken");
        return Ok(ExitCode::SUCCESS);
    };
    let (broker, served) = gathered?;
    let broker: Arc<dyn Broker> = Arc::new(broker);
    let report = run_worker(worker, broker.clone(), stores, served, shutdown).await?;
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
