//! The command line, as typed.

mod bench;
mod bundles;
mod common;
mod finetune;
mod scenes;
mod serving;
mod values;

use clap::{Parser, Subcommand};

pub use bench::{BenchArgs, BenchStep};
pub use bundles::{PackArgs, RandomBundleArgs, RepackArgs, TraceArgs};
pub(super) use common::BrokerArgs;
pub use finetune::{FinetuneArgs, SightPart};
pub use scenes::{EvaluateArgs, FileFormatArg, ScenesArgs, SplitArg};
pub use serving::{DoctorArgs, RunArgs};
pub(super) use serving::{EngineKind, NullArgs};

use crate::telemetry::LogFormat;

/// Captions and embeds pictures for a fleet: one TinyGPT-V on one device.
#[derive(Debug, Parser)]
#[command(name = "worker", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// How log lines look: auto (text on a terminal, else JSON), text or json; CAPTIONFLEET_LOG filters them
    #[arg(long, global = true, default_value = "auto", env = "CAPTIONFLEET_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  worker run --broker amqp://user:password@queue.internal --model s3://models/tinygpt-v.tar
  worker pack --checkpoint ./tinygpt-v-files --stage-number 3 --weights q8_0 --out ./tinygpt-v.q8
  worker doctor --broker amqp://queue.internal --model ./tinygpt-v.q8

Exit codes: 0 all is well, 1 the job could not be done, 12 the model does not fit the device's memory, 64 the command
line is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs from a broker until told to stop
    Run(Box<RunArgs>),
    /// Turn published checkpoints into one bundle
    Pack(Box<PackArgs>),
    /// Pack a bundle again with other weight types
    Repack(RepackArgs),
    /// Make a bundle of any weight type with random weights, for measurements and tests
    RandomBundle(RandomBundleArgs),
    /// Run a folder of reference fixtures through the model and write every tensor
    Trace(TraceArgs),
    /// Make pictures of the demo model's small world
    Scenes(ScenesArgs),
    /// Measure the demo model on newly made pictures
    Evaluate(EvaluateArgs),
    /// Measure a model on this machine
    Bench(BenchArgs),
    /// Teach a model new words: train a LoRA adapter on captioned pictures
    Finetune(Box<FinetuneArgs>),
    /// Check broker, archive, model and programs, one line each, with the remedy
    Doctor(DoctorArgs),
}

impl Command {
    /// How many threads the arithmetic shall take, where that can be chosen.
    pub fn threads(&self) -> Option<usize> {
        match self {
            Self::Run(args) => args.model.threads,
            Self::Evaluate(args) => args.model.threads,
            Self::Bench(args) => args.model.threads,
            Self::Finetune(args) => args.threads,
            Self::Pack(_)
            | Self::Repack(_)
            | Self::RandomBundle(_)
            | Self::Trace(_)
            | Self::Scenes(_)
            | Self::Doctor(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::{CommandFactory as _, Parser as _};

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_trained_is_refused_before_anything_is_read() {
        let parse = |more: &[&str]| {
            let base = ["worker", "finetune", "--data", "captions.parquet", "--out", "adapter"];
            Cli::try_parse_from(base.iter().chain(more)).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(parse(&["--targets", "q_proj,dense", "--held-out", "0"]), Ok(()));
        let refused = parse(&["--targets", "dense,q_prj"]).unwrap_err();
        assert!(refused.contains("q_prj"), "{refused}");
        assert!(parse(&["--held-out", "1"]).is_err());
    }
}
