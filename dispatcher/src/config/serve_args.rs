//! The command line of `dispatcher serve`, and what follows from it.

use super::price_args::PriceArgs;
use super::shared_args::{FleetArgs, ManagementArgs};
use super::usage_error::UsageError;
use crate::catalog::Source;
use crate::scale::rule::{Rule, TARGET_SECONDS};
use clap::Args;
use std::ffi::OsStr;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

/// `dispatcher serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dispatcher serve --archive ./captions                      pages at http://127.0.0.1:8080, everything in this process
  dispatcher serve --archive s3://photos/captions --broker amqps://queue.internal --listen 0.0.0.0:8080 \\
      --token-file /run/secrets/captionfleet --sources s3://photos

Beyond this machine a token is needed, as TLS is: put a proxy in front. The API is described at /api/v1/openapi.json.")]
pub struct ServeArgs {
    /// The archive: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "URI", env = "CAPTIONFLEET_ARCHIVE")]
    pub archive: String,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", env = "CAPTIONFLEET_LISTEN")]
    pub listen: String,

    /// A file that holds the token which every client must have, such as a mounted secret; or put the token itself into
    /// CAPTIONFLEET_TOKEN
    #[arg(long, value_name = "FILE", env = "CAPTIONFLEET_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Folders and s3://bucket/prefix that runs may be submitted from, separated by commas. Without it: anything that
    /// this process can read where no token is needed, nothing where one is
    #[arg(long, value_name = "SOURCE", value_delimiter = ',', env = "CAPTIONFLEET_SOURCES")]
    pub sources: Vec<String>,

    /// Requests a second from one address; ten times as many at once. A search counts as ten
    #[arg(long, value_name = "N", default_value_t = 100, env = "CAPTIONFLEET_RATE",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,

    /// Seconds of work that one worker may have before it: more workers are wanted beyond that
    #[arg(long, value_name = "S", default_value_t = TARGET_SECONDS as u32, env = "CAPTIONFLEET_SCALE_TARGET",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub scale_target: u32,

    /// Never more workers are wanted than these
    #[arg(long, value_name = "N", default_value_t = 20, env = "CAPTIONFLEET_MAX_WORKERS",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_workers: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub management: ManagementArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub price: PriceArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetArgs,
}

/// Fewest characters of a token: less can be guessed.
const TOKEN_CHARACTERS: usize = 16;
/// Holds the token; it is no flag, because command lines are seen by everyone on a machine.
const TOKEN_VARIABLE: &str = "CAPTIONFLEET_TOKEN";

impl ServeArgs {
    /// How many workers waiting work is worth.
    pub fn rule(&self) -> Rule {
        Rule { target_seconds: f64::from(self.scale_target), most: self.max_workers }
    }

    /// Where to listen.
    pub fn address(&self) -> Result<SocketAddr, UsageError> {
        let wrong = |why: String| UsageError::new(format!("--listen {}: {why}", self.listen));
        let mut addresses = self.listen.to_socket_addrs().map_err(|error| {
            wrong(format!("not an address ({error}); write HOST:PORT, such as 127.0.0.1:8080"))
        })?;
        addresses.next().ok_or_else(|| wrong("this name has no address".to_owned()))
    }

    /// The token, which a service that others can reach must have.
    pub fn token(&self, address: SocketAddr) -> Result<Option<String>, UsageError> {
        let (token, name) = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    UsageError::new(format!("--token-file {}: cannot be read: {error}", path.display()))
                })?;
                (Some(text), "--token-file")
            }
            None => (std::env::var(TOKEN_VARIABLE).ok(), TOKEN_VARIABLE),
        };
        let token = token.map(|token| token.trim().to_owned());
        match token {
            Some(token) if token.chars().count() < TOKEN_CHARACTERS => Err(UsageError::new(format!(
                "{name}: the token has fewer than {TOKEN_CHARACTERS} characters; make one with `openssl rand -hex 32`"
            ))),
            None if !address.ip().is_loopback() => Err(UsageError::new(format!(
                "--listen {address}: others could reach this address, so a token is needed: --token-file FILE, or {TOKEN_VARIABLE}"
            ))),
            token => Ok(token),
        }
    }

    /// What may be submitted by whoever may use the service.
    pub fn rules(&self, needs_token: bool) -> Result<SourceRules, UsageError> {
        if self.sources.is_empty() {
            return Ok(if needs_token { SourceRules::Only(Vec::new()) } else { SourceRules::Any });
        }
        let roots = self.sources.iter().map(|text| {
            let source = Source::parse(OsStr::new(text))
                .map_err(|error| UsageError::new(format!("--sources: {error}")))?;
            match source {
                Source::Local(path) => path
                    .canonicalize()
                    .map(Root::Folder)
                    .map_err(|error| UsageError::new(format!("--sources {text}: {error}"))),
                Source::Objects(objects) => Ok(Root::Prefix { bucket: objects.bucket, key: objects.key }),
            }
        });
        Ok(SourceRules::Only(roots.collect::<Result<_, _>>()?))
    }
}

/// What may be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRules {
    /// Whatever this process can read.
    Any,
    /// What lies below one of these.
    Only(Vec<Root>),
}

/// A place below which everything may be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A folder, without links in its path.
    Folder(PathBuf),
    /// The beginning of keys of a bucket.
    Prefix {
        /// The bucket.
        bucket: String,
        /// What keys begin with, up to a slash.
        key: String,
    },
}

impl SourceRules {
    /// Whether a source may be submitted; a path may not leave its root by links either.
    pub fn allow(&self, source: &Source) -> bool {
        let Self::Only(roots) = self else { return true };
        match source {
            Source::Local(path) => {
                // A pattern could lead through links: only what exists by this very name is looked at.
                let Ok(path) = path.canonicalize() else { return false };
                roots.iter().any(|root| matches!(root, Root::Folder(root) if path.starts_with(root)))
            }
            Source::Objects(objects) => roots.iter().any(|root| match root {
                Root::Prefix { bucket, key } => {
                    let below = objects.key.strip_prefix(key.as_str());
                    *bucket == objects.bucket
                        && (key.is_empty()
                            || key.ends_with('/') && below.is_some()
                            || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
                }
                Root::Folder(_) => false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Root, SourceRules};
    use crate::catalog::Source;
    use std::ffi::OsStr;

    #[test]
    fn what_may_be_submitted_lies_below_a_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("in")).unwrap();
        std::os::unix::fs::symlink("/", root.join("in/out")).unwrap();
        let rules = SourceRules::Only(vec![
            Root::Folder(root.join("in")),
            Root::Prefix { bucket: "b".into(), key: "photos".into() },
        ]);
        let allowed = |text: &str| rules.allow(&Source::parse(OsStr::new(text)).unwrap());
        let local = |rest: &str| allowed(&format!("{}/{rest}", root.display()));
        assert!(local("in") && local("in/../in"));
        assert!(!local("") && !local("in/none") && !local("in/*") && !local("in/out") && !local("in/.."));
        assert!(allowed("s3://b/photos") && allowed("s3://b/photos/2025/"));
        assert!(!allowed("s3://b/photosets") && !allowed("s3://b") && !allowed("s3://c/photos"));
        assert!(SourceRules::Any.allow(&Source::parse(OsStr::new("/")).unwrap()));
    }
}
