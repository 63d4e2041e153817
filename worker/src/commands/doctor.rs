//! `worker doctor`: is everything there that a worker needs?

use std::process::ExitCode;

use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::{Management, RabbitMqOptions};
use captionfleet_proto::storage::{LocalRoots, StorageOptions, Stores};

use super::say;
use crate::config::{DoctorArgs, UsageError, broker_uris, storage_options};
use crate::doctor::{self, Finding};

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    // Whoever runs this names the folder, not a message.
    let local_roots = LocalRoots::Any;
    let options = StorageOptions { local_roots, ..storage_options(args.storage.s3_endpoint.clone(), &[]) };
    let stores = Stores::new(options);
    let mut found = Vec::new();
    let mut tell = |finding: Finding| {
        if !args.json {
            say(&finding);
        }
        found.push(finding);
    };
    tell(doctor::jpeg());
    tell(doctor::ffmpeg().await);
    tell(doctor::gpu(args.model.device));
    tell(doctor::model(args.model.model.as_deref(), args.model.engine(), &stores).await);
    if args.broker.broker.is_some() || args.broker.broker_file.is_some() {
        let topology = Topology::with_prefix(&args.broker.queue_prefix)?;
        let uris = broker_uris(&args.broker)?;
        let management = args.broker_management.as_deref().zip(uris.first());
        let management = management.map(|(url, broker)| Management::new(url, broker)).transpose();
        let management = management.map_err(|error| UsageError(format!("--broker-management: {error}")))?;
        let options = RabbitMqOptions::new(uris, topology.clone());
        let told = doctor::broker(options, &topology, management.as_ref()).await;
        told.into_iter().for_each(&mut tell);
    } else {
        tell(doctor::no_broker());
    }
    match &args.archive {
        Some(archive) => doctor::archive(archive, &stores).await.into_iter().for_each(&mut tell),
        None => tell(doctor::no_clock()),
    }
    if args.json {
        say(serde_json::to_string_pretty(&found)?);
    }
    let well = !found.iter().any(Finding::is_failure);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
