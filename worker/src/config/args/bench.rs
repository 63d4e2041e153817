//! `bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::common::ModelArgs;
use super::values::duration;

/// A step of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchStep {
    /// Pictures seen.
    Vision,
    /// Prompts read.
    Prefill,
    /// One more token for each sequence.
    Decode,
}

/// `worker bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  worker bench
  worker bench --model ./full.q8 --memory-budget 8GiB --slot-tokens 192 --batches 1,8 --slots-list 1,8
  worker bench --model ./full.q8 --memory-budget 8GiB --soak 30m
  worker bench --queries 400
  worker bench --model ./full.q8 --steps-only --steps decode --adapter-rank 16

Numbers of slots that do not fit are named and left out. With --invariance the exit code is 0 only if nothing depends on the
company; on a GPU, if 99.9 % of the captions do not, and no embedding by more than how products are rounded. With drawn weights a GPU
is judged by the embeddings alone.

Prints load time, memory by part, seconds of each step by batch size with its share of what the device can do at best
(a large product and a large copy, measured in the same run), and pictures per second by number of slots. Pictures
come from memory, without queue or storage.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,

    /// A folder of pictures to take instead of drawn ones
    #[arg(long, value_name = "FOLDER")]
    pub pictures: Option<PathBuf>,

    /// How many pictures per number of slots; 256, or 32 for a large model. A folder with fewer is gone through again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: Option<u32>,

    /// Batch sizes at which each step is measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,8,16",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub batches: Vec<u16>,

    /// Steps that are measured
    #[arg(long, value_name = "STEP,…", value_delimiter = ',', default_value = "vision,prefill,decode")]
    pub steps: Vec<BenchStep>,

    /// Numbers of slots at which whole pictures are measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,4,8,16",
          value_parser = clap::value_parser!(u16).range(1..=512))]
    pub slots_list: Vec<u16>,

    /// Measure single steps only, no whole pictures
    #[arg(long, conflicts_with = "items_only")]
    pub steps_only: bool,

    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: u32,

    /// Measure decode steps also with adapters of this rank and random numbers: one for all rows, and four and none in turn
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub adapter_rank: Option<u16>,

    /// Measure whole pictures only, no single steps
    #[arg(long)]
    pub items_only: bool,

    /// Instead, send requests of random lengths in random company for so long (30m, say), and watch memory
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["items_only", "batches"])]
    pub soak: Option<Duration>,

    /// Instead, caption pictures alone and in random company, and count how many captions are the same
    #[arg(long, conflicts_with_all = ["items_only", "batches", "soak"])]
    pub invariance: bool,

    /// Instead, embed N texts and N pictures one by one, alone and while every slot captions, and compare how long they wait
    #[arg(long, value_name = "N", conflicts_with_all = ["items_only", "batches", "soak", "invariance"],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub queries: Option<u32>,

    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
}
