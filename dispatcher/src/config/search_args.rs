//! The command line of `dispatcher search`, and the filter that it means.

use super::shared_args::{FleetArgs, OutputArgs};
use super::usage_error::UsageError;
use crate::search::rerank;
use captionfleet_index::{Filter, Status};
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout;
use captionfleet_proto::uri::ArchiveUri;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::path::PathBuf;

/// `dispatcher search`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher search \"two people on a boat\" --archive ./captions
  dispatcher search --image boat.jpg --archive s3://photos/captions --top-k 20 --json
  dispatcher search \"a boat\" --image calm-sea.jpg --archive ./captions      both count
  dispatcher search \"red boat\" --hybrid --archive ./captions              meaning, and words of the captions
  dispatcher search \"two people on a boat\" --rerank --archive ./captions    the model looks at the best 20 again
  dispatcher search boat --keywords --archive ./captions                    words alone; needs no model
  dispatcher search \"a boat\" --archive ./captions --source ~/Pictures/2025 --min-size 1024x768 --group

The query must be embedded by the model that made the archive: name it with --model, or let the fleet's workers do
it with --broker.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct SearchArgs {
    /// What to look for
    #[arg(value_name = "TEXT", required_unless_present_any = ["image", "status"])]
    pub text: Option<String>,

    /// Look for pictures like this one; together with a text, both count
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Rank by the captions' words, too
    #[arg(long, requires = "text", conflicts_with = "keywords")]
    pub hybrid: bool,

    /// Rank by the captions' words alone; embeds nothing
    #[arg(long, requires = "text", conflicts_with_all = ["image", "exact"])]
    pub keywords: bool,

    /// Compare with every vector of every part, without the index
    #[arg(long, conflicts_with_all = ["hybrid", "offset", "group"])]
    pub exact: bool,

    /// Let the model look at the best N again (20 if no number is given) and order them by how well the text describes each;
    /// costs a vision pass a picture
    #[arg(long, value_name = "N", requires = "text", conflicts_with = "exact", num_args = 0..=1, require_equals = true,
          default_missing_value = rerank::USUAL_TEXT, value_parser = clap::value_parser!(u32).range(1..=i64::from(rerank::MOST)))]
    pub rerank: Option<u32>,

    /// How many pictures to show
    #[arg(long, short = 'k', visible_alias = "limit", value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub top_k: u32,

    /// How many of the best to leave out: the next page
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub offset: u32,

    /// Show near-duplicates with their best one instead of one by one, among the best 1000 (-k and --offset together)
    #[arg(long)]
    pub group: bool,

    /// Say where the small picture of each frame found is, where `caption --thumbnails` kept one
    #[arg(long)]
    pub thumbnails: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub filter: FilterArgs,

    /// Seconds to wait for a worker's answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// What may be found.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct FilterArgs {
    /// Only pictures whose name begins so: a folder or s3://bucket/prefix
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<String>,

    /// Only rows made at this time or later: a date or a time such as 2025-01-31T12:00:00Z (UTC)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Only rows made before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,

    /// Only rows of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,

    /// Only pictures at least so wide and high, in pixels
    #[arg(long, value_name = "WxH")]
    pub min_size: Option<String>,

    /// Only pictures at most so wide and high
    #[arg(long, value_name = "WxH")]
    pub max_size: Option<String>,

    /// Only pictures that ended so when they were last tried
    #[arg(long, value_name = "STATUS")]
    pub status: Option<StatusArg>,

    /// Only pictures whose caption has this in it, whatever the case
    #[arg(long, value_name = "TEXT")]
    pub caption_contains: Option<String>,
}

/// What became of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    /// Captioned.
    Ok,
    /// Could not be.
    Failed,
    /// Left out.
    Skipped,
}

impl FilterArgs {
    /// The filter; the error names the flag.
    pub fn filter(&self) -> Result<Filter, UsageError> {
        let run = |run: &String| {
            let run = RunId::new(run.as_str()).map_err(|error| UsageError::new(format!("--run: {error}")))?;
            Ok(layout::parts_prefix(Some(&run)))
        };
        let filter = Filter {
            source: self.source.as_deref().map(source).transpose()?,
            since: self.since.as_deref().map(|text| time("--since", text)).transpose()?,
            until: self.until.as_deref().map(|text| time("--until", text)).transpose()?,
            parts: self.run.as_ref().map(run).transpose()?,
            least_size: self.min_size.as_deref().map(|text| size("--min-size", text)).transpose()?,
            largest_size: self.max_size.as_deref().map(|text| size("--max-size", text)).transpose()?,
            status: self.status.map(|status| match status {
                StatusArg::Ok => Status::Ok,
                StatusArg::Failed => Status::Failed,
                StatusArg::Skipped => Status::Skipped,
            }),
            caption: self.caption_contains.clone(),
        };
        if filter.since.zip(filter.until).is_some_and(|(since, until)| since >= until) {
            return Err(UsageError::new("--since must be before --until"));
        }
        Ok(filter)
    }
}

/// The beginning of the items' URIs; a slash at the end stays, so that `a/` does not let `ab` through.
fn source(text: &str) -> Result<String, UsageError> {
    let uri = ArchiveUri::parse(text).map_err(|error| UsageError::new(format!("--source: {error}")))?;
    let slash = if text.ends_with('/') && !uri.as_str().ends_with('/') { "/" } else { "" };
    Ok(format!("{uri}{slash}"))
}

/// Microseconds since 1970.
fn time(flag: &str, text: &str) -> Result<i64, UsageError> {
    let day =
        || text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC)).map(|zoned| zoned.timestamp());
    let time = text.parse::<Timestamp>().or_else(|_| day());
    time.map(Timestamp::as_microsecond).map_err(|_| {
        let examples = "2025-01-31 or 2025-01-31T12:00:00Z";
        UsageError::new(format!("{flag}: `{}` is no time; write {examples}", text.escape_debug()))
    })
}

fn size(flag: &str, text: &str) -> Result<(u32, u32), UsageError> {
    let side = |digits: &str| digits.parse().ok().filter(|_| digits.len() <= 9 && !digits.starts_with('+'));
    let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
    sides.ok_or_else(|| {
        UsageError::new(format!("{flag}: `{}` is no size; write 1024x768", text.escape_debug()))
    })
}

#[cfg(test)]
mod tests {
    use super::{FilterArgs, size, source, time};

    #[test]
    fn times_are_days_or_instants() {
        assert_eq!(time("--since", "1970-01-02"), Ok(86_400_000_000));
        assert_eq!(time("--since", "1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert!(time("--since", "yesterday").is_err());
    }

    #[test]
    fn a_source_is_spelled_as_items_are() {
        assert_eq!(source("s3://b/a%20b/").as_deref(), Ok("s3://b/a%20b/"));
        assert_eq!(source("/pictures/a b").as_deref(), Ok("file:///pictures/a%20b"));
    }

    #[test]
    fn sizes_and_spans_are_checked() {
        assert_eq!(size("--min-size", "640x480"), Ok((640, 480)));
        for wrong in ["640", "640x", "+640x480", "1x1000000000", "640x480x3"] {
            assert!(size("--min-size", wrong).is_err(), "{wrong}");
        }
        let backwards = FilterArgs {
            since: Some("2025-01-02".to_owned()),
            until: Some("2025-01-01".to_owned()),
            ..FilterArgs::default()
        };
        assert!(backwards.filter().is_err());
    }
}
