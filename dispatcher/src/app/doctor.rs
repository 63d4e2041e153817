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
    let stores = Stores::new(settings.storage.clone());
    let mut well = true;
    let mut tell = |finding: Finding| {
        well &= !finding.is_failure();
        output::line(finding.to_string());
    };
    tell(doctor::ffmpeg().await);
    if settings.is_remote() {
        let topology = Topology::with_prefix(&settings.queue_prefix)?;
        let options = RabbitMqOptions::new(settings.broker.clone(), topology.clone());
        tell(doctor::broker(options, &topology).await);
    } else {
        // Without a broker the model runs in this process.
        tell(doctor::jpeg());
        tell(doctor::gpu(EngineSettings::default().device));
        tell(doctor::model(settings.model.as_deref(), EngineSettings::default(), &stores).await);
    }
    if let Some(archive) = &args.archive {
        doctor::archive(archive, &stores).await.into_iter().for_each(&mut tell);
    }
    Ok(if well { Ended::Well } else { Ended::Incomplete })
}
