//! What several commands take: where things are, the model and its device.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;

use super::values::{at_least_one, size};
use crate::app::{DeviceChoice, EngineSettings};

/// Where S3 is.
#[derive(Debug, Clone, Default, Args)]
pub struct StorageArgs {
    /// Endpoint of an S3 server other than AWS (MinIO, Garage, …); buckets are then addressed by path
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
}

/// Where the queue is.
#[derive(Debug, Clone, Default, Args)]
pub struct BrokerArgs {
    /// RabbitMQ, as amqp://user:password@host:port/vhost, several separated by commas. Passwords are better kept in
    /// the environment variable or in a file
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_BROKER", hide_env_values = true)]
    pub broker: Option<String>,

    /// A file that holds the broker's URI, such as a mounted secret; goes before --broker
    #[arg(long, value_name = "FILE", env = "CAPTIONFLEET_BROKER_FILE")]
    pub broker_file: Option<PathBuf>,

    /// First part of all queue names, so that several fleets can share a broker
    #[arg(long, value_name = "NAME", default_value = "captionfleet", env = "CAPTIONFLEET_QUEUE_PREFIX")]
    pub queue_prefix: String,
}

/// The model, and where it runs.
#[derive(Debug, Clone, Default, Args)]
pub struct ModelArgs {
    /// A bundle (folder, .tar file or s3://…) or tinygpt-v; without it the built-in demo model serves
    #[arg(long, value_name = "BUNDLE", env = "CAPTIONFLEET_MODEL")]
    pub model: Option<String>,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "CAPTIONFLEET_DEVICE")]
    pub device: DeviceChoice,

    /// On a GPU, leave out our own kernels and use candle's alone
    #[arg(long, env = "CAPTIONFLEET_STOCK_KERNELS")]
    pub stock_kernels: bool,

    /// On a GPU, run every step at its full size: an answer is the same to the last bit whatever else is asked at the time. It
    /// costs time where slots are empty, and answers with an adapter are the same only nearly. On a CPU it is always so
    #[arg(long, env = "CAPTIONFLEET_BATCH_INVARIANT")]
    pub batch_invariant: bool,

    /// Pictures captioned at the same time; more use the device better and take memory
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_SLOTS", value_parser = at_least_one())]
    pub slots: Option<usize>,

    /// Tokens of one slot: picture, prompt and caption; 320 otherwise. Fewer make room for more slots
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_SLOT_TOKENS", value_parser = at_least_one())]
    pub slot_tokens: Option<usize>,

    /// The most memory to use on the device, such as 8GiB: slots and batches are fitted into it, on a CPU pictures on their way to it,
    /// too. What is free otherwise
    #[arg(long, value_name = "SIZE", env = "CAPTIONFLEET_MEMORY_BUDGET", value_parser = size)]
    pub memory_budget: Option<ByteSize>,

    /// Threads for arithmetic and picture decoding; all cores otherwise
    #[arg(long, value_name = "N", env = "CAPTIONFLEET_THREADS", value_parser = at_least_one())]
    pub threads: Option<usize>,
}

impl ModelArgs {
    /// What is said about the engine.
    pub fn engine(&self) -> EngineSettings {
        EngineSettings {
            device: self.device,
            stock_kernels: self.stock_kernels,
            batch_invariant: self.batch_invariant,
            slots: self.slots,
            slot_tokens: self.slot_tokens,
            memory_budget: self.memory_budget.map(|size| size.as_u64()),
        }
    }
}
