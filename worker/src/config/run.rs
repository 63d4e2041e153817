//! What follows from the command line: checked as a whole before anything is touched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use captionfleet_model::preprocess::DecodeLimits;
use captionfleet_proto::broker::Topology;
use captionfleet_proto::broker::rabbitmq::RabbitMqOptions;
use captionfleet_proto::storage::{LocalRoots, StorageOptions};

use super::args::{BrokerArgs, EngineKind, NullArgs, RunArgs};
use crate::app::WorkerConfig;
use crate::engine::NullOptions;
use crate::machine;
use crate::model_choice::ModelChoice;
use crate::pipeline::{PipelineOptions, SpoolOptions};
use crate::spot::{SpotNotice, SpotSettings};
use crate::video::VideoLimits;

/// A command line that cannot be meant: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// What `worker run` shall serve.
#[derive(Debug, PartialEq, Eq)]
pub enum ServedChoice {
    /// A model.
    Model(ModelChoice),
    /// Nothing, for load tests.
    Null(NullOptions),
}

impl ServedChoice {
    fn resolve(args: &RunArgs) -> anyhow::Result<Self> {
        let NullArgs { engine, load_test, null_seconds_per_item } = args.null;
        match engine {
            EngineKind::Model if load_test || null_seconds_per_item.is_some() => {
                let reason = "--load-test and --null-seconds-per-item belong to --engine null";
                Err(UsageError(reason.to_owned()).into())
            }
            EngineKind::Model => Ok(Self::Model(ModelChoice::parse(args.model.model.as_deref())?)),
            EngineKind::Null if !load_test => {
                let reason = "--engine null writes rows whose captions are no captions, for load tests only: add --load-test \
                              if that is what you want, and use an archive that you will throw away";
                Err(UsageError(reason.to_owned()).into())
            }
            EngineKind::Null if args.model.model.is_some() => {
                let reason = "--engine null serves no model: leave out --model and CAPTIONFLEET_MODEL";
                Err(UsageError(reason.to_owned()).into())
            }
            EngineKind::Null => Ok(Self::Null(NullOptions {
                time_per_item: Duration::from_secs_f64(null_seconds_per_item.unwrap_or(0.0)),
                slots: args.model.slots.unwrap_or(NULL_SLOTS),
            })),
        }
    }
}

/// Slots of the null engine, as a GPU has them.
const NULL_SLOTS: usize = 32;

/// `worker run`, resolved.
#[derive(Debug)]
pub struct RunSettings {
    /// Brokers to connect to, in turn.
    pub broker: Vec<String>,
    /// Queue names.
    pub topology: Topology,
    /// Which model, if any.
    pub served: ServedChoice,
    /// Access to pictures and archives.
    pub storage: StorageOptions,
    /// Everything the worker itself is told.
    pub worker: WorkerConfig,
    /// Which spot notices end it.
    pub spot: SpotSettings,
}

impl RunSettings {
    /// Checks everything that this machine alone can tell.
    ///
    /// # Errors
    /// [`UsageError`], or a broker file that cannot be read.
    pub fn resolve(args: &RunArgs) -> anyhow::Result<Self> {
        let topology = topology(&args.broker)?;
        if let Some(missing) = args.local_root.iter().find(|root| !root.is_dir()) {
            return Err(
                UsageError(format!("--local-root {}: there is no such folder", missing.display())).into()
            );
        }
        if let Some(folder) = &args.spool_dir {
            spool_folder(folder)?;
        }
        let pipeline = PipelineOptions {
            topology: topology.clone(),
            prefetch_bulk: args.prefetch,
            decode_limits: DecodeLimits { max_bytes: args.max_item_mib << 20, ..DecodeLimits::default() },
            item_deadline: Duration::from_secs(args.item_deadline),
            hold_limit: Duration::from_secs(args.hold_limit),
            grace: Duration::from_secs(args.grace),
            max_tokens_default: args.max_tokens,
            adapter_memory: args.adapter_memory.as_u64(),
            spool: SpoolOptions { folder: args.spool_dir.clone(), max_bytes: args.spool_gib << 30 },
            video_limits: VideoLimits { memory: args.video_memory.as_u64(), ..VideoLimits::default() },
            worker_name: args.worker_name.clone().unwrap_or_else(machine::process_name),
            ..PipelineOptions::default()
        };
        Ok(Self {
            broker: broker_uris(&args.broker)?,
            topology,
            served: ServedChoice::resolve(args)?,
            storage: storage_options(args.storage.s3_endpoint.clone(), &args.local_root),
            worker: WorkerConfig { engine: args.model.engine(), pipeline, ..WorkerConfig::default() },
            spot: SpotSettings { notice: spot_notice(args), url: args.metadata_url.clone() },
        })
    }
}

/// Refuses a folder that no video could be copied to. A full disk is waited for later.
fn spool_folder(folder: &Path) -> Result<(), UsageError> {
    use std::io::ErrorKind;
    if !folder.is_dir() {
        return Err(UsageError(format!("--spool-dir {}: there is no such folder", folder.display())));
    }
    match tempfile::tempfile_in(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            Err(UsageError(format!(
                "--spool-dir {}: nothing can be written there: {error}",
                folder.display()
            )))
        }
        _ => Ok(()),
    }
}

/// As asked; the usual variable that keeps programs away from the metadata service keeps us away, too.
fn spot_notice(args: &RunArgs) -> SpotNotice {
    let disabled =
        std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    if args.spot_notice == SpotNotice::Auto && disabled { SpotNotice::Off } else { args.spot_notice }
}

/// Queue names from the prefix.
fn topology(args: &BrokerArgs) -> Result<Topology, UsageError> {
    Topology::with_prefix(&args.queue_prefix)
        .map_err(|error| UsageError(format!("--queue-prefix {}: {error}", args.queue_prefix)))
}

/// The broker's addresses from flag, environment or file.
///
/// # Errors
/// When none is given or the file cannot be read.
pub fn broker_uris(args: &BrokerArgs) -> anyhow::Result<Vec<String>> {
    let text = match (&args.broker, &args.broker_file) {
        (_, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| UsageError(format!("--broker-file {}: {error}", file.display())))?,
        (Some(text), None) => text.clone(),
        (None, None) => String::new(),
    };
    let uris = RabbitMqOptions::split_uris(&text.replace('\n', ","));
    if uris.is_empty() {
        return Err(UsageError(
            "no broker is given: use --broker amqp://…, CAPTIONFLEET_BROKER or --broker-file".to_owned(),
        )
        .into());
    }
    Ok(uris)
}

/// Access to storage for a worker of a fleet: local files only below the given folders.
#[must_use]
pub fn storage_options(s3_endpoint: Option<String>, local_roots: &[PathBuf]) -> StorageOptions {
    let local_roots =
        if local_roots.is_empty() { LocalRoots::None } else { LocalRoots::Only(local_roots.to_vec()) };
    StorageOptions { s3_endpoint, local_roots, ..StorageOptions::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    fn parsed(more: &[&str]) -> anyhow::Result<RunArgs> {
        let cli = Cli::try_parse_from(["worker", "run"].iter().chain(more))?;
        let Command::Run(args) = cli.command else { unreachable!("`run` was asked for") };
        Ok(*args)
    }

    fn served(more: &[&str]) -> anyhow::Result<ServedChoice> {
        ServedChoice::resolve(&parsed(more)?)
    }

    #[test]
    fn a_picture_that_may_be_read_may_be_decoded() {
        let args = parsed(&["--broker", "amqp://rabbit", "--max-item-mib", "200"]).unwrap();
        let options = RunSettings::resolve(&args).unwrap().worker.pipeline;
        assert_eq!(options.decode_limits.max_bytes, 200 << 20);
    }

    #[test]
    fn nobody_gets_the_null_engine_by_accident() {
        assert_eq!(served(&["--model", "demo"]).unwrap(), ServedChoice::Model(ModelChoice::Demo));
        for refused in [
            &["--engine", "null"][..],
            &["--engine", "null", "--load-test", "--model", "demo"],
            &["--load-test"],
            &["--null-seconds-per-item", "1"],
            &["--engine", "null", "--load-test", "--null-seconds-per-item", "-1"],
        ] {
            assert!(served(refused).is_err(), "{refused:?}");
        }
        let options = NullOptions { time_per_item: Duration::from_millis(250), slots: 4 };
        let asked = ["--engine", "null", "--load-test", "--null-seconds-per-item", "0.25", "--slots", "4"];
        assert_eq!(served(&asked).unwrap(), ServedChoice::Null(options));
    }

    #[test]
    fn a_spool_folder_is_one_that_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        assert!(spool_folder(folder.path()).is_ok());
        let said = spool_folder(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(said.contains("--spool-dir") && said.contains("absent"), "{said}");
        // Nobody makes files there, not even root.
        #[cfg(target_os = "linux")]
        assert!(spool_folder("/sys".as_ref()).unwrap_err().to_string().contains("nothing can be written"));
    }
}
