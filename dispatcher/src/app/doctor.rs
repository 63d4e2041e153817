//! `dispatcher doctor`: is everything there that a submission needs?

use crate::config::FleetSettings;
use crate::config::args::DoctorArgs;
use crate::exit::Ended;
use crate::output;
use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::RabbitMqOptions;
use captionfleet_proto::storage::Stores;
use captionfleet_worker::app::EngineSettings;
use captionfleet_worker::doctor::{self, Finding};

/// Runs the command.
pub async fn run(args: DoctorArgs) -> anyhow::Result<Ended> {
    let settings = FleetSettings::new(&args.fleet);
    let stores = Stores::new(settings.storage.brief());
    let management = args.management.of(&settings.broker)?;
    let mut found = Vec::new();
    let mut tell = |finding: Finding| {
        if !args.json {
            output::line(finding.to_string());
        }
        found.push(finding);
    };
    tell(doctor::ffmpeg().await);
    if settings.is_remote() {
        let topology = Topology::with_prefix(&settings.queue_prefix)?;
        let options = RabbitMqOptions::new(settings.broker.clone(), topology.clone());
        let told = doctor::broker(options, &topology, management.as_ref()).await;
        told.into_iter().for_each(&mut tell);
    } else {
        // Without a broker the model runs in this process.
        tell(doctor::jpeg());
        tell(doctor::gpu(EngineSettings::default().device));
        tell(doctor::model(settings.model.as_deref(), EngineSettings::default(), &stores).await);
    }
    if let Some(archive) = &args.archive {
        doctor::archive(archive, &stores).await.into_iter().for_each(&mut tell);
    }
    if args.json {
        output::json(&found)?;
    }
    let well = !found.iter().any(Finding::is_failure);
    Ok(if well { Ended::Well } else { Ended::Incomplete })
}
