//! The command line, as typed.

use super::eval_args::EvalArgs;
use super::price_args::PriceArgs;
use super::search_args::SearchArgs;
use super::serve_args::ServeArgs;
use super::shared_args::{ArchiveArgs, FleetArgs, ManagementArgs, OutputArgs};
use super::simulate_args::SimulateArgs;
use super::work_args::{CaptionArgs, PlanArgs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Captions, embeds and finds pictures with TinyGPT-V, on this machine or over a fleet of workers.
#[derive(Debug, Parser)]
#[command(name = "dispatcher", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dispatcher demo                                          see everything work on made pictures
  dispatcher caption ~/Pictures --archive ./captions       caption and embed a folder on this machine
  dispatcher search \"a dog on a beach\" --archive ./captions

With a fleet (start `worker run` with the same broker on any number of machines):
  dispatcher caption s3://photos/2024 --archive s3://photos/captions --broker amqp://queue.internal

Exit codes: 0 all is well, 1 the job could not be done or is not complete, 64 the command line is wrong.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make some pictures, caption them and find them again: the whole job in under a minute
    Demo(DemoArgs),
    /// Caption and embed pictures; what the archive already has is not done again
    Caption(CaptionArgs),
    /// Answer the questions of a benchmark and say how many are right
    Eval(EvalArgs),
    /// Find pictures by text or by another picture
    Search(SearchArgs),
    /// Serve the API and the pages of an archive, and keep its search index fresh
    Serve(ServeArgs),
    /// Bring the search index of an archive up to its parts
    Index(IndexArgs),
    /// Remove what the archive says of pictures and films
    Forget(ForgetArgs),
    /// Say what `caption` would do, without doing it
    Plan(PlanArgs),
    /// List the runs of an archive and how far they are
    Status(StatusArgs),
    /// Prove that every item of every run has exactly one row
    Verify(VerifyArgs),
    /// Write captions and chapters of finished videos as files for players
    Tracks(TracksArgs),
    /// Publish dead-lettered jobs again
    Retry(RetryArgs),
    /// Check broker, archive, model and programs, one line each, with the remedy
    Doctor(DoctorArgs),
    /// Say what a fleet that follows its queue would cost, from measured constants
    Simulate(SimulateArgs),
}

/// `dispatcher index`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher index --archive ./captions
  dispatcher index --archive s3://photos/captions --watch

`caption` keeps the index up to date while it runs; this takes in what came before or from elsewhere. The index is made
from the parts alone and may be deleted. Several indexers may be started: one works, the others wait for it.")]
pub struct IndexArgs {
    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Endpoint of an S3 server other than AWS
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,

    /// Go on and look for new parts until interrupted
    #[arg(long)]
    pub watch: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `dispatcher forget`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher forget ~/Pictures/2024/party.jpg --archive ./captions
  dispatcher forget s3://photos/people/ --archive s3://photos/captions --dry-run

Captions, answers, embeddings, thumbnails, tracks and copies go, for good; the pictures themselves stay where they are. A row
stays that says `skipped` with the code `forgotten`, and no run captions them again, whatever it asks, until their bytes change.
That is so for what waits in a queue, too; other pictures that were in a job with them are left to the next `caption` (in the
service: Resume). A film that a worker has in hand at this moment may leave thumbnails: forget it when no worker is at its run.
Over one unfinished run make one call after the other. Interrupted, the same call does the rest.")]
pub struct ForgetArgs {
    /// Pictures and films: paths or URIs as rows have them; with a slash at the end all that lie below
    #[arg(required = true, value_name = "ITEM")]
    pub items: Vec<String>,

    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Endpoint of an S3 server other than AWS
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,

    /// Only say how much there is
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `dispatcher status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher status --archive ./captions
  dispatcher status --archive ./captions 20250131T120000Z-1a2b3c --price-per-hour 0.2

Of a run that is named, the parts are read, and its bill is told.")]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub price: PriceArgs,
}

/// `dispatcher verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher verify --archive ./captions
  dispatcher verify --archive s3://photos/captions 20250131T120000Z-1a2b3c --json

Compares the items of each run's manifest with the rows of its parts. Exit code 0 only if every item has exactly one
row and there is nothing else. Jobs that other programs publish have no manifest: each of their parts is held against
itself.")]
pub struct VerifyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
}

/// `dispatcher tracks`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher tracks --archive ./captions
  dispatcher tracks --archive s3://films/captions --srt

`caption` writes captions and chapters (WebVTT) of the videos that it finishes; this command does so for runs that were
left to the fleet with --detach, and adds SubRip files where they are wanted.")]
pub struct TracksArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,

    /// Write SubRip (.srt) as well
    #[arg(long)]
    pub srt: bool,
}

/// `dispatcher retry`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher retry --broker amqp://queue.internal                     every dead letter
  dispatcher retry --broker amqp://queue.internal 20250131T120000Z-1a2b3c
  dispatcher retry --broker amqp://queue.internal --list              only show them

A dead letter that is not a valid job stays where it is. Items that were forgotten meanwhile are left out of their jobs: the
archive is read for that, and a job whose archive cannot be read stays, too.")]
pub struct RetryArgs {
    /// Only the jobs of this run
    #[arg(value_name = "RUN")]
    pub run: Option<String>,

    /// RabbitMQ, as for `caption`
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_BROKER", hide_env_values = true)]
    pub broker: String,

    /// First part of all queue names
    #[arg(long, value_name = "NAME", env = "CAPTIONFLEET_QUEUE_PREFIX")]
    pub queue_prefix: Option<String>,

    /// Endpoint of an S3 server other than AWS
    #[arg(long, value_name = "URL", env = "CAPTIONFLEET_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,

    /// Show the dead letters and leave them where they are
    #[arg(long)]
    pub list: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `dispatcher doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// An archive to list, write, read and clean up
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub management: ManagementArgs,

    /// Print one JSON document instead of lines
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetArgs,
}

/// `dispatcher demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher demo
  dispatcher demo --out ./captionfleet-demo --count 100 --seed 7")]
pub struct DemoArgs {
    /// Where pictures and archive go; must not exist or be empty. Without it a new folder below the system's temporary
    /// one
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,

    /// How many pictures
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub count: u32,

    /// Another seed makes other pictures
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
