//! The command line, as typed.

use super::ask_args::AskArgs;
use super::eval_args::EvalArgs;
use super::price_args::PriceArgs;
use super::search_args::SearchArgs;
use super::serve_args::ServeArgs;
use super::simulate_args::{SimulateArgs, seconds_per_item};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
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

/// Where the pictures are and what is wanted of them.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// Files, folders (with everything below), patterns or s3://bucket/prefix
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,

    /// Where the results live: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,

    /// Longest caption in tokens; the worker's default otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_tokens: Option<u32>,

    /// A LoRA adapter that the model shall use: a folder as peft and `worker finetune` write it, a .pth file, or s3://…
    #[arg(long, value_name = "URI")]
    pub adapter: Option<String>,

    /// Make no embeddings; such pictures cannot be found by `search`
    #[arg(long)]
    pub no_embed: bool,

    /// Pictures per job: small jobs spread better, large ones cost less overhead
    #[arg(long, value_name = "N", default_value_t = 64, env = "CAPTIONFLEET_JOB_SIZE",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub job_size: u32,

    /// Take only files with a picture's extension from folders, patterns and prefixes
    #[arg(long)]
    pub pictures_only: bool,

    /// Also do again what failed before for a reason that lies in the picture
    #[arg(long)]
    pub retry_failed: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub video: VideoArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub price: PriceArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetArgs,
}

/// Which frames of videos are captioned.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Videos")]
pub struct VideoArgs {
    /// Look at a frame every so often, such as 500ms, 1s (what happens otherwise) or 2m
    #[arg(long, value_name = "TIME", conflicts_with_all = ["fps", "scenes", "keyframes"], value_parser = interval)]
    pub every: Option<u64>,

    /// Look at so many frames a second
    #[arg(long, value_name = "N", conflicts_with_all = ["scenes", "keyframes"], value_parser = rate)]
    pub fps: Option<u64>,

    /// Look at the first frame of every scene, and at one a minute while it lasts; at what difference of neighbouring
    /// frames a scene ends may be said, 0.3 otherwise
    #[arg(long, value_name = "CUT", conflicts_with = "keyframes", num_args = 0..=1, default_missing_value = "0.3",
          require_equals = true, value_parser = share)]
    pub scenes: Option<f64>,

    /// Look at the frames that the encoder stored whole, which costs least to decode
    #[arg(long)]
    pub keyframes: bool,

    /// How much a frame must differ from the last captioned one to be captioned itself, 0 (caption all) to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.04, env = "CAPTIONFLEET_MIN_CHANGE", value_parser = share)]
    pub min_change: f64,

    /// Keep every captioned frame as a small JPEG in the archive, for `search --thumbnails`
    #[arg(long)]
    pub thumbnails: bool,
}

/// A time in words, in microseconds.
fn interval(text: &str) -> Result<u64, String> {
    let wrong = || "not a time between 1ms and 24h; write 500ms, 1s or 2m, for example".to_owned();
    let time: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let us = u64::try_from(time.as_micros()).map_err(|_| wrong())?;
    (1000..=86_400_000_000).contains(&us).then_some(us).ok_or_else(wrong)
}

/// Frames a second, as the time between them in microseconds, rounded up so that a minute has no frame too many.
fn rate(text: &str) -> Result<u64, String> {
    let fps: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let us = (1e6 / fps - 1e-6).ceil();
    if (1000.0..=86_400_000_000.0).contains(&us) {
        return Ok(us as u64);
    }
    Err("must be above 0 and at most 1000".to_owned())
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(|| "must be 0 to 1".to_owned())
}

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

/// `dispatcher caption`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher caption ~/Pictures --archive ./captions
  dispatcher caption 'photos/**/*.jpg' one.png --archive ./captions --ask \"what colour is the car?\"
  dispatcher caption s3://photos/2024 --archive s3://photos/captions --s3-endpoint http://127.0.0.1:9000 \\
      --broker amqp://guest:guest@127.0.0.1

Every regular file that is not hidden counts; one that is no picture ends as a failed row with a code. Run the same
command again to go on after an interruption or to add what is new: nothing is done twice. A picture whose bytes
failed before is not tried again without --retry-failed.

Exit code 0 means that every item has its row, failed ones included (--strict makes those exit with 1).")]
pub struct CaptionArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub work: WorkArgs,

    /// Publish the jobs and leave; needs --broker
    #[arg(long)]
    pub detach: bool,

    /// Leave the search index as it is
    #[arg(long)]
    pub no_index: bool,

    /// Exit with 1 when any row failed
    #[arg(long)]
    pub strict: bool,

    /// Address for /metrics, /healthz and /readyz; port 0 takes a free one, "off" serves none
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", env = "CAPTIONFLEET_ADMIN_ADDR")]
    pub admin_addr: String,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `dispatcher plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher plan ~/Pictures --archive ./captions
  dispatcher plan s3://photos/2026/ --archive s3://photos/captions --workers 4,16,64 --price-per-hour 0.2

Takes the options of `caption`, lists the sources, compares them with the archive, and writes nothing. Time and money are
reckoned by what rows of the archive say about earlier runs of the same model.")]
pub struct PlanArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub work: WorkArgs,

    /// Sizes of the fleet to reckon for
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 4, 16],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub workers: Vec<u32>,

    /// Seconds that one worker takes for a picture, such as 1 / (pictures/s) of `worker bench`; as the archive tells otherwise
    #[arg(long, value_name = "S", value_parser = seconds_per_item)]
    pub seconds_per_item: Option<f64>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
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

/// `dispatcher retry`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher retry --broker amqp://queue.internal                     every dead letter
  dispatcher retry --broker amqp://queue.internal 20250131T120000Z-1a2b3c
  dispatcher retry --broker amqp://queue.internal --list              only show them

A dead letter that is not a valid job stays where it is.")]
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
