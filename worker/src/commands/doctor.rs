//! `worker doctor`: is everything there that a worker needs?

use std::process::ExitCode;

use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::RabbitMqOptions;
use captionfleet_proto::storage::{LocalRoots, StorageOptions, Stores};

use super::say;
use crate::config::{DoctorArgs, broker_uris, storage_options};
use crate::doctor::{self, Finding};

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    // Whoever runs this names the folder, not a message.
    let local_roots = LocalRoots::Any;
    let options = StorageOptions { local_roots, ..storage_options(args.storage.s3_endpoint.clone(), &[]) };
    let stores = Stores::new(options);
    let mut well = true;
    let mut tell = |finding: Finding| {
        well &= !finding.is_failure();
        say(finding);
    };
    tell(doctor::jpeg());
    tell(doctor::ffmpeg().await);
    tell(doctor::gpu(args.model.device));
    tell(doctor::model(args.model.model.as_deref(), args.model.engine(), &stores).await);
    if args.broker.broker.is_some() || args.broker.broker_file.is_some() {
        let topology = Topology::with_prefix(&args.broker.queue_prefix)?;
        let options = RabbitMqOptions::new(broker_uris(&args.broker)?, topology.clone());
        tell(doctor::broker(options, &topology).await);
    }
    match &args.archive {
        Some(archive) => doctor::archive(archive, &stores).await.into_iter().for_each(&mut tell),
        None => tell(doctor::no_clock()),
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
