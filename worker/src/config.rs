//! The command line and the environment: as typed, and as resolved. Nothing else reads either.

mod args;
mod run;

pub use args::{
    BenchArgs, BenchStep, Cli, Command, DoctorArgs, EvaluateArgs, FileFormatArg, FinetuneArgs, PackArgs,
    RandomBundleArgs, RepackArgs, RunArgs, ScenesArgs, SightPart, SplitArg, TraceArgs,
};
pub use run::{RunSettings, ServedChoice, UsageError, broker_uris, storage_options};
