//! `run` and `doctor`: a worker of a fleet.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use url::Url;

use super::common::{BrokerArgs, ModelArgs, StorageArgs};
use super::values::{price, seconds, size, worker_name};
use crate::spot::{METADATA_URL, SpotNotice};
use crate::telemetry::admin::AdminAddr;

/// `worker run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  CAPTIONFLEET_BROKER=amqps://user:password@queue.internal/captions worker run --model s3://models/tinygpt-v.tar
  worker run --broker amqp://guest:guest@127.0.0.1 --s3-endpoint http://127.0.0.1:9000

S3 credentials come from the usual AWS_* variables or profiles. SIGTERM drains: running pictures are finished within
--grace, the rest goes back to the queue; a second signal ends the worker at once.")]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub null: NullArgs,

    /// This worker's name in rows, bills and overviews, which no other worker of the fleet may have; host and process otherwise
    #[arg(long, value_name = "NAME", env = "CAPTIONFLEET_WORKER_NAME", value_parser = worker_name)]
    pub worker_name: Option<String>,

    /// Bulk jobs taken ahead from each lane: enough that fetching never starves the device, few enough that others get some
    #[arg(long, value_name = "N", default_value_t = 2, env = "CAPTIONFLEET_PREFETCH",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub prefetch: u16,

    /// Longest caption in tokens where the job does not say
    #[arg(long, value_name = "N", default_value_t = 64, env = "CAPTIONFLEET_MAX_TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,

    /// Seconds that reading and decoding one picture may take before it fails with `deadline`, and that the device may stay in one
    /// step before it counts as hanging
    #[arg(long, value_name = "SECONDS", default_value_t = 120, env = "CAPTIONFLEET_ITEM_DEADLINE",
          value_parser = clap::value_parser!(u64).range(1..=1200))]
    pub item_deadline: u64,

    /// Seconds that a job is held at most; then what is done of it is kept in the archive, and the job goes to the end of its queue.
    /// With twice --item-deadline it must stay well below the broker's consumer_timeout
    #[arg(long, value_name = "SECONDS", default_value_t = 900, env = "CAPTIONFLEET_HOLD_LIMIT",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub hold_limit: u64,

    /// Largest picture file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, env = "CAPTIONFLEET_MAX_ITEM_MIB",
          value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub max_item_mib: u64,

    /// An existing folder for copies of the videos that are being decoded; the temporary folder otherwise
    #[arg(long, value_name = "FOLDER", env = "CAPTIONFLEET_SPOOL_DIR")]
    pub spool_dir: Option<PathBuf>,

    /// Most GiB of such copies; a larger video fails
    #[arg(long, value_name = "GIB", default_value_t = 20, env = "CAPTIONFLEET_SPOOL_GIB",
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub spool_gib: u64,

    /// Most memory of one video decoder, such as 4GiB: a process of its own, beside the memory budget
    #[arg(long, value_name = "SIZE", default_value = "4GiB", env = "CAPTIONFLEET_VIDEO_MEMORY", value_parser = size)]
    pub video_memory: ByteSize,

    /// Most memory of adapters that no job uses at the moment, such as 1GiB; never more than slots, batches and pictures leave of
    /// the budget
    #[arg(long, value_name = "SIZE", default_value = "1GiB", env = "CAPTIONFLEET_ADAPTER_MEMORY", value_parser = size)]
    pub adapter_memory: ByteSize,

    /// Seconds to finish running pictures after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 25, env = "CAPTIONFLEET_GRACE")]
    pub grace: u64,

    /// Whose spot notices drain this worker: aws, gcp, azure, off, or auto for the cloud that answers within five minutes
    #[arg(long, value_name = "CLOUD", default_value = "auto", env = "CAPTIONFLEET_SPOT_NOTICE")]
    pub spot_notice: SpotNotice,

    /// Where the cloud's metadata service is
    #[arg(long, value_name = "URL", default_value = METADATA_URL, env = "CAPTIONFLEET_METADATA_URL")]
    pub metadata_url: Url,

    /// What an hour of this machine costs, in any currency: /metrics then tell what was spent
    #[arg(long, value_name = "PRICE", env = "CAPTIONFLEET_PRICE_PER_HOUR", value_parser = price)]
    pub price_per_hour: Option<f64>,

    /// A folder whose pictures file:// items may name, and in which file:// archives may be; none otherwise. May be given several times
    #[arg(long, value_name = "FOLDER", env = "CAPTIONFLEET_LOCAL_ROOT", value_delimiter = ':')]
    pub local_root: Vec<PathBuf>,

    /// Address for /metrics, /healthz and /readyz, or off; 127.0.0.1:9464 (a free port if taken) otherwise
    #[arg(long, value_name = "HOST:PORT", default_value = "default", env = "CAPTIONFLEET_ADMIN_ADDR")]
    pub admin_addr: AdminAddr,
}

/// Serving without a model. Left out of the help, and not to be set in an environment: none of it is for a fleet that works.
#[derive(Debug, Clone, Copy, Args)]
pub struct NullArgs {
    /// What answers: the model, or the null engine, which looks at nothing
    #[arg(long, value_enum, default_value_t = EngineKind::Model, hide = true)]
    pub engine: EngineKind,

    /// Says that captions shall be no captions
    #[arg(long, hide = true)]
    pub load_test: bool,

    /// Seconds that the null engine takes for an item, 0 otherwise
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = seconds)]
    pub null_seconds_per_item: Option<f64>,
}

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The model.
    Model,
    /// The null engine, for load tests only.
    Null,
}

/// `worker doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  worker doctor --broker amqp://queue.internal --archive s3://photos/captions --model ./tinygpt-v.q8

Checks what is given, one line each; exit code 0 only if all is well.")]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub broker: BrokerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub storage: StorageArgs,

    /// An archive to list, write, read and clean up
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: Option<String>,

    /// RabbitMQ's management API, as http://HOST:15672, with user and password of --broker unless it has its own: it tells the
    /// broker's version, and whether a policy is over our queues
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_BROKER_MANAGEMENT", hide_env_values = true)]
    pub broker_management: Option<String>,

    /// Print one JSON document instead of lines
    #[arg(long)]
    pub json: bool,
}
