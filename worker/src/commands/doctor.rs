//! `worker doctor`: is everything there that a worker needs?

use std::process::ExitCode;

use captionfleet_proto::broker::Broker;
use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::ArchiveUri;

use super::say;
use crate::app::start_engine;
use crate::config::{DoctorArgs, broker_uris, storage_options};
use crate::engine::Unobserved;
use crate::model_choice::ModelChoice;
use crate::telemetry::events;

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::new(storage_options(args.storage.s3_endpoint.clone(), &[]));
    let mut well = tell("model", check_model(&args, &stores).await);
    if args.broker.broker.is_some() || args.broker.broker_file.is_some() {
        well &= tell("broker", check_broker(&args).await);
    }
    if let Some(archive) = &args.archive {
        well &= tell("archive", check_archive(archive, &stores).await);
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(what: &str, outcome: anyhow::Result<String>) -> bool {
    match outcome {
        Ok(text) => say(format_args!("ok      {what}: {text}")),
        Err(error) => {
            say(format_args!("failed  {what}: {}", events::chain(error.as_ref())));
            return false;
        }
    }
    true
}

async fn check_model(args: &DoctorArgs, stores: &Stores) -> anyhow::Result<String> {
    let bundle = ModelChoice::parse(args.model.model.as_deref())?.resolve(stores).await?;
    let settings = args.model.engine();
    let named = format!("{} ({})", bundle.manifest().name, &bundle.id()[..12]);
    let told = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
        let engine = start_engine(&bundle, settings, std::sync::Arc::new(Unobserved))?;
        let info = engine.handle();
        let text =
            format!("{named} says its golden tokens on {}, {} slots", info.info().device, info.info().slots);
        drop(info);
        engine.join()?;
        Ok(text)
    });
    told.await?
}

async fn check_broker(args: &DoctorArgs) -> anyhow::Result<String> {
    let topology = Topology::with_prefix(&args.broker.queue_prefix)?;
    let broker = RabbitMq::connect(RabbitMqOptions::new(broker_uris(&args.broker)?, topology)).await?;
    let outcome = broker.declare().await;
    let place = broker.describe();
    broker.close().await;
    outcome?;
    Ok(format!("{place} accepts us and has our queues"))
}

async fn check_archive(archive: &str, stores: &Stores) -> anyhow::Result<String> {
    let store = stores.archive(&ArchiveUri::parse(archive)?).await?;
    store.check().await?;
    Ok(format!("{} can be reached", store.location()))
}
