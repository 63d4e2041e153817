//! The options of `dispatcher caption` and `dispatcher plan`.

use super::ask_args::AskArgs;
use super::price_args::PriceArgs;
use super::shared_args::{FleetArgs, OutputArgs};
use super::simulate_args::seconds_per_item;
use clap::Args;
use std::ffi::OsString;

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

/// Frames a second, as the time between them in microseconds. Rounded down: where films of that rate round their times, each frame
/// still comes an interval later than the one before.
fn rate(text: &str) -> Result<u64, String> {
    let fps: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let us = (1e6 / fps + 1e-6).floor();
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

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_intervals_that_no_film_of_that_rate_falls_short_of() {
        for (fps, every_us) in [
            ("25", 40_000),
            ("24", 41_666),
            ("30", 33_333),
            ("60", 16_666),
            ("29.97", 33_366),
            ("23.976", 41_708),
            ("0.5", 2_000_000),
            ("0.1", 10_000_000),
            ("1000", 1000),
        ] {
            assert_eq!(rate(fps), Ok(every_us), "{fps}");
        }
        for wrong in ["0", "-1", "1001", "nan", "inf", "many"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
