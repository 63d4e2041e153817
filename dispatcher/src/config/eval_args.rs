//! The options of `dispatcher eval`.

use super::shared_args::{FleetArgs, OutputArgs};
use crate::eval::Benchmark;
use clap::Args;
use std::path::PathBuf;

/// `dispatcher eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher eval demo --data ./bench --archive ./captions
  dispatcher eval gqa --data ~/gqa --archive s3://photos/eval --broker amqp://queue.internal --model tinygpt-v

An ordinary run answers the set's questions; the same command goes on where it stopped, and judges again what is there.
What failed and was tried again by a service counts with the answers that it has now.
The report lies in the archive below evaluations/RUN/: report.md, report.json and plot.svg.")]
pub struct EvalArgs {
    /// The data set
    #[arg(value_enum)]
    pub benchmark: Benchmark,

    /// The folder of the data set, as published
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Where run and report live: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Ask only about the first so many pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Ask in the words of the set and inside the bundle's own prompt, instead of as the reference does
    #[arg(long)]
    pub own_prompt: bool,

    /// A LoRA adapter that the model shall use: a folder as peft and `worker finetune` write it, a .pth file, or s3://…
    #[arg(long, value_name = "URI")]
    pub adapter: Option<String>,

    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,

    /// Pictures per job
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub job_size: u32,

    /// Scenes of the demo's benchmark, where it is not drawn yet
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub scenes: u32,

    /// Their seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}
