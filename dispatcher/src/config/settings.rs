//! What follows from the command line: checked as a whole before anything is touched.

use super::shared_args::FleetArgs;
use super::usage_error::UsageError;
use super::work_args::{VideoArgs, WorkArgs};
use crate::catalog::{CatalogOptions, Source};
use crate::wish::Wish;
use captionfleet_proto::broker::rabbitmq::RabbitMqOptions;
use captionfleet_proto::job::{SampleBy, Sampling};
use captionfleet_proto::storage::{LocalRoots, S3Patience, StorageOptions};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_worker::telemetry::admin::AdminAddr;
use std::fmt;

/// First part of all queue names unless another is given.
pub const QUEUE_PREFIX: &str = "captionfleet";

/// Where queue, storage and model are.
#[derive(Clone)]
pub struct FleetSettings {
    /// The broker's addresses, which may hold passwords; none: everything runs in this process.
    pub broker: Vec<String>,
    /// First part of all queue names.
    pub queue_prefix: String,
    /// How buckets are reached.
    pub storage: StorageOptions,
    /// The model as named by the user.
    pub model: Option<String>,
}

impl FleetSettings {
    /// Takes the arguments as they are; addresses are checked by those who use them.
    pub fn new(args: &FleetArgs) -> Self {
        Self {
            broker: args.broker.as_deref().map(RabbitMqOptions::split_uris).unwrap_or_default(),
            queue_prefix: args.queue_prefix.clone().unwrap_or_else(|| QUEUE_PREFIX.to_owned()),
            storage: storage(args.s3_endpoint.clone()),
            model: args.model.clone(),
        }
    }

    /// Whether jobs go to a broker rather than to this process.
    pub fn is_remote(&self) -> bool {
        !self.broker.is_empty()
    }
}

impl fmt::Debug for FleetSettings {
    /// Leaves out the broker's addresses, which may hold passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FleetSettings")
            .field("remote", &self.is_remote())
            .field("queue_prefix", &self.queue_prefix)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// The user's own rights decide which local files may be read. Nobody comes again for a command: one request of the thousands that
/// copy, list and write down a run must not end it where a store fails for a while.
pub fn storage(s3_endpoint: Option<String>) -> StorageOptions {
    let (local_roots, s3_patience) = (LocalRoots::Any, S3Patience::Long);
    StorageOptions { s3_endpoint, local_roots, s3_patience, ..StorageOptions::default() }
}

/// The archive named by the user.
pub fn archive(text: &str) -> Result<ArchiveUri, UsageError> {
    ArchiveUri::parse(text).map_err(|error| UsageError::new(format!("--archive: {error}")))
}

/// What a run does.
#[derive(Debug, Clone)]
pub struct WorkSettings {
    /// Where the items come from.
    pub sources: Vec<Source>,
    /// Where the results live.
    pub archive: ArchiveUri,
    /// What is asked; the bundle is not known yet.
    pub wish: Wish,
    /// Most items per job.
    pub job_size: usize,
    /// Take only picture extensions.
    pub pictures_only: bool,
    /// Do again what failed before.
    pub retry_failed: bool,
    /// Keep frames of videos as small pictures.
    pub thumbnails: bool,
    /// Where the adapter is that the model shall use.
    pub adapter: Option<ItemUri>,
    /// Queue, storage and model.
    pub fleet: FleetSettings,
}

impl WorkSettings {
    /// Checks everything that can be checked without touching anything.
    pub fn new(args: &WorkArgs) -> Result<Self, UsageError> {
        let archive = archive(&args.archive)?;
        let fleet = FleetSettings::new(&args.fleet);
        if fleet.is_remote() && archive.is_local() {
            return Err(UsageError::new(format!(
                "--archive {archive}: with --broker the archive must be an s3:// location, because workers on other \
                 machines cannot write to a folder of this one; name a bucket, or leave out --broker"
            )));
        }
        let sources = args
            .sources
            .iter()
            .map(|source| Source::parse(source))
            .collect::<Result<_, _>>()
            .map_err(|error| UsageError::new(error.to_string()))?;
        let wish = Wish {
            prompt: args.ask.prompt()?,
            max_tokens: args.max_tokens,
            adapter: None,
            embed: !args.no_embed,
            bundle: None,
            sample: sampling(&args.video),
            thumbnails: args.video.thumbnails,
        };
        Ok(Self {
            sources,
            archive,
            wish,
            job_size: args.job_size as usize,
            pictures_only: args.pictures_only,
            retry_failed: args.retry_failed,
            thumbnails: args.video.thumbnails,
            adapter: args.adapter.as_deref().map(adapter_uri).transpose()?,
            fleet,
        })
    }

    /// What the catalog leaves out.
    pub fn catalog_options(&self) -> CatalogOptions {
        CatalogOptions { archive: Some(self.archive.clone()), pictures_only: self.pictures_only }
    }
}

/// The adapter named by the user: an s3:// address, or a path on this machine.
pub fn adapter_uri(text: &str) -> Result<ItemUri, UsageError> {
    let parsed = if text.starts_with("s3://") {
        ItemUri::parse(text.trim_end_matches('/')).map_err(|error| error.to_string())
    } else {
        let path = std::path::Path::new(text).canonicalize().map_err(|error| error.to_string());
        path.and_then(|path| ItemUri::from_path(&path).map_err(|error| error.to_string()))
    };
    parsed.map_err(|error| UsageError::new(format!("--adapter {text}: {error}")))
}

fn sampling(args: &VideoArgs) -> Sampling {
    let by = match (args.every.or(args.fps), args.scenes, args.keyframes) {
        (Some(every_us), _, _) => SampleBy::Interval { every_us },
        (None, Some(cut), _) => SampleBy::Scenes { cut },
        (None, None, true) => SampleBy::Keyframes,
        (None, None, false) => Sampling::default().by,
    };
    Sampling { by, min_change: args.min_change }
}

/// An address for metrics, or "off".
pub fn admin_address(text: &str) -> Result<AdminAddr, UsageError> {
    AdminAddr::parse(text).map_err(|error| UsageError::new(format!("--admin-addr: {error}")))
}

#[cfg(test)]
mod tests {
    use super::admin_address;
    use captionfleet_worker::telemetry::admin::AdminAddr;

    #[test]
    fn metrics_can_be_off() {
        assert_eq!(admin_address("off"), Ok(AdminAddr::Off));
        assert!(matches!(admin_address("127.0.0.1:0"), Ok(AdminAddr::At(_))));
        assert!(admin_address("localhost").is_err());
    }
}
