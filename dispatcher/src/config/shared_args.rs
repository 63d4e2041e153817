//! Options that several commands have.

use super::usage_error::UsageError;
use captionfleet_proto::broker::rabbitmq::Management;
use clap::Args;

/// Model, queue and storage.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetArgs {
    /// The model: a bundle (folder, file or s3://…) or tinygpt-v; without it the small demo model. With --broker the
    /// workers choose, and this only requires that bundle of them
    #[arg(long, value_name = "BUNDLE", env = "CAPTIONFLEET_MODEL")]
    pub model: Option<String>,

    /// RabbitMQ, as amqp://user:password@host:port/vhost, several separated by commas; without it everything runs in
    /// this process. Passwords are better kept in the environment variable
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_BROKER", hide_env_values = true)]
    pub broker: Option<String>,

    /// First part of all queue names, so that several fleets can share a broker
    #[arg(long, value_name = "NAME", env = "CAPTIONFLEET_QUEUE_PREFIX")]
    pub queue_prefix: Option<String>,

    /// Endpoint of an S3 server other than AWS (MinIO, Garage, …); buckets are then addressed by path
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
}

/// The broker's management API.
#[derive(Debug, Clone, Default, Args)]
pub struct ManagementArgs {
    /// RabbitMQ's management API, as http://HOST:15672, with user and password of --broker unless it has its own: it tells what
    /// workers have in hand of jobs that others published (`serve`), and the broker's version and policies (`doctor`)
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_BROKER_MANAGEMENT", hide_env_values = true)]
    pub broker_management: Option<String>,
}

impl ManagementArgs {
    /// The management API of the broker at these addresses, if it is to be asked.
    pub fn of(&self, broker: &[String]) -> Result<Option<Management>, UsageError> {
        let Some(url) = &self.broker_management else { return Ok(None) };
        let wrong = |why: String| UsageError::new(format!("--broker-management: {why}"));
        let Some(broker) = broker.first() else {
            return Err(wrong(
                "there is no broker to ask about; name it with --broker, or leave this out".to_owned(),
            ));
        };
        Management::new(url, broker).map(Some).map_err(|error| wrong(error.to_string()))
    }
}

/// How results are told.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct OutputArgs {
    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,

    /// Print neither progress nor remarks
    #[arg(long, short)]
    pub quiet: bool,
}

/// An archive, and perhaps one of its runs.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// One run; without it all
    #[arg(value_name = "RUN")]
    pub run: Option<String>,

    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Endpoint of an S3 server other than AWS
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}
