//! The command line of `dispatcher simulate`.

use super::price_args::price;
use super::shared_args::OutputArgs;
use crate::scale::rule::TARGET_SECONDS;
use crate::scale::simulate::World;
use crate::scale::simulate::arrivals::Shape;
use clap::Args;
use std::path::PathBuf;

/// `dispatcher simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher simulate --items 1000000 --seconds-per-item 0.25                a million pictures at once
  dispatcher simulate --arrivals daily --items 500000 --seconds-per-item 0.25 --interruptions 0.2 --notice 0
  dispatcher simulate --arrivals-file arrivals.csv --seconds-per-item 0.25 --targets 60,300,900 --json

The seconds that an item takes are those of `worker bench` on your GPU: 1 / (pictures/s).")]
pub struct SimulateArgs {
    /// How the items arrive
    #[arg(long, value_name = "SHAPE", value_enum, default_value = "burst", conflicts_with = "arrivals_file")]
    pub arrivals: Shape,

    /// Arrivals of your own: lines of SECONDS,ITEMS in order of time
    #[arg(long, value_name = "FILE")]
    pub arrivals_file: Option<PathBuf>,

    /// How many items arrive
    #[arg(long, value_name = "N", default_value_t = 100_000, conflicts_with = "arrivals_file",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub items: u64,

    /// Device seconds that one item takes
    #[arg(long, value_name = "S", value_parser = seconds_per_item)]
    pub seconds_per_item: f64,

    /// Items of a job
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub job_size: u64,

    /// Seconds of work that one worker may have before it; one simulation for each
    #[arg(long, value_name = "S,S", value_delimiter = ',', default_values_t = [60.0, 150.0, 300.0, TARGET_SECONDS, 1200.0],
          value_parser = target, conflicts_with = "fixed")]
    pub targets: Vec<f64>,

    /// Never more workers than these
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_workers: u32,

    /// No scaling: so many workers, ready at the start; another is ordered for whichever is taken away
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub fixed: Option<u32>,

    /// With --fixed: they are ordered at the start, instead of being ready then
    #[arg(long, requires = "fixed")]
    pub cold: bool,

    /// Seconds from the order of a machine until it is there
    #[arg(long, value_name = "S", default_value_t = 90, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub provision: u64,

    /// Seconds from then until its worker is ready
    #[arg(long, value_name = "S", default_value_t = 45, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub load: u64,

    /// Interruptions of the spot market, per machine and hour
    #[arg(long, value_name = "RATE", default_value_t = 0.05, value_parser = rate)]
    pub interruptions: f64,

    /// Seconds at which a machine is taken away besides, without a notice; a busy one if there is one
    #[arg(long, value_name = "S,S", value_delimiter = ',')]
    pub interrupt_at: Vec<u64>,

    /// Seconds between the notice of an interruption and the end of the machine; 0 for none
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub notice: u64,

    /// Seconds that a worker that is sent away may go on with its jobs (the worker's --grace)
    #[arg(long, value_name = "S", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub grace: u64,

    /// Price of a machine's hour
    #[arg(long, value_name = "PRICE", default_value_t = 0.20, value_parser = price, env = "CAPTIONFLEET_PRICE_PER_HOUR")]
    pub price_per_hour: f64,

    /// Another number, other interruptions
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

impl SimulateArgs {
    /// The world around the rule.
    pub fn world(&self) -> World {
        World {
            seconds_per_item: self.seconds_per_item,
            job_size: self.job_size,
            provision: self.provision,
            load: self.load,
            interruptions_per_hour: self.interruptions,
            interrupt_at: self.interrupt_at.clone(),
            notice: self.notice,
            grace: self.grace,
            price_per_hour: self.price_per_hour,
        }
    }
}

fn between(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (least..=most).contains(&number).then_some(number).ok_or_else(|| format!("must be {least} to {most}"))
}

pub(super) fn seconds_per_item(text: &str) -> Result<f64, String> {
    between(text, 1e-6, 3600.0)
}

fn target(text: &str) -> Result<f64, String> {
    between(text, 1.0, 1e6)
}

fn rate(text: &str) -> Result<f64, String> {
    between(text, 0.0, 3600.0)
}
