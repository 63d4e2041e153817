//! One client for all buckets.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::types::ChecksumAlgorithm;
use url::Url;

use super::busy::Busy;
use super::{credentials, http};
use crate::storage::{S3Checksums, S3Patience, StorageError, StorageErrorKind, StorageOptions};

/// Attempts of one request, the first included, with [`S3Patience::Brief`]: at one failure in ten, one in 10⁵ requests fails for
/// good.
const BRIEF: u32 = 5;
/// The same with [`S3Patience::Long`]: at one failure in two, one in 10⁹. Where all fail that is told after one to two minutes.
const LONG: u32 = 32;
/// The most when a place is opened: whoever has misspelt the endpoint shall not wait for minutes.
const OPENING: u32 = 8;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_millis(3100);
/// To the first byte of the answer.
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// One attempt, to the end of the answer's headers; large uploads get more.
pub(super) const ATTEMPT: Duration = Duration::from_secs(60);
/// All attempts of one request.
pub(super) const OPERATION: Duration = Duration::from_secs(300);
/// A body that does not move for so long is given up.
const STALL: Duration = Duration::from_secs(10);

/// A client, and what to call its server.
#[derive(Clone, Debug)]
pub(in crate::storage) struct Connection {
    pub(super) client: Client,
    /// The server's URL without credentials, or "Amazon S3 in REGION".
    pub(super) server: Arc<str>,
    /// The server has refused a conditional write as something that it does not know.
    pub(super) knows_no_conditions: Arc<AtomicBool>,
    /// Of the pieces of large files, unless such are to be sent only where they are required: then a server may refuse them.
    pub(super) piece_checksum: Option<ChecksumAlgorithm>,
    /// How a place is looked at that is to be opened.
    pub(super) opening: RetryConfig,
}

/// Makes the client; fails if there are no credentials or the endpoint is not a URL. Sends nothing to the server.
pub(in crate::storage) async fn connect(options: &StorageOptions) -> Result<Connection, StorageError> {
    let endpoint = endpoint(options)?;
    let place = endpoint.as_ref().map_or("Amazon S3", |endpoint| endpoint.shown.as_str());
    let sources = credentials::find(options.s3_region.as_deref(), endpoint.is_some(), place).await?;
    let server = match &endpoint {
        Some(endpoint) => endpoint.shown.clone(),
        None => format!("Amazon S3 in {}", sources.region),
    };
    let attempts = match options.s3_patience {
        S3Patience::Brief => BRIEF,
        S3Patience::Long => LONG,
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(sources.region)
        .credentials_provider(sources.credentials)
        .http_client(http::client())
        .retry_config(retries(attempts))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .read_timeout(FIRST_BYTE)
                .operation_attempt_timeout(ATTEMPT)
                .operation_timeout(OPERATION)
                .build(),
        )
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL).build());
    if let Some(endpoint) = &endpoint {
        loader = loader.endpoint_url(&endpoint.url);
    }
    if options.s3_checksums == S3Checksums::WhenRequired {
        loader = loader
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    let config = loader.load().await;
    let piece_checksum = match config.request_checksum_calculation() {
        Some(RequestChecksumCalculation::WhenRequired) => None,
        _ => Some(ChecksumAlgorithm::Crc32),
    };
    let path_style = options.s3_path_style.unwrap_or(config.endpoint_url().is_some());
    // The client's own quota for retries is used up by a server that fails half of the time, and then nothing is tried
    // again at all: pauses between the attempts are what spares the server here.
    let partition = RetryPartition::custom("captionfleet").token_bucket(TokenBucket::unlimited()).build();
    let config = aws_sdk_s3::config::Builder::from(&config)
        .force_path_style(path_style)
        .retry_partition(partition)
        .retry_classifier(Busy)
        .build();
    Ok(Connection {
        client: Client::from_conf(config),
        server: server.into(),
        knows_no_conditions: Arc::default(),
        piece_checksum,
        opening: retries(attempts.min(OPENING)),
    })
}

fn retries(attempts: u32) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(attempts)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(LONGEST_BACKOFF)
}

struct Endpoint {
    url: String,
    shown: String,
}

/// The endpoint given or the environment's, which the SDK would find too, but not tell us of.
fn endpoint(options: &StorageOptions) -> Result<Option<Endpoint>, StorageError> {
    let from = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let given = options
        .s3_endpoint
        .clone()
        .or_else(|| from("AWS_ENDPOINT_URL_S3"))
        .or_else(|| from("AWS_ENDPOINT_URL"));
    let Some(given) = given else {
        return Ok(None);
    };
    let parsed =
        Url::parse(&given).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(mut url) = parsed else {
        let problem = "the S3 endpoint is not a URL: write http://host:port or https://host";
        return Err(StorageError::new(StorageErrorKind::InvalidUri, "opening", shown(&given), problem));
    };
    if !url.username().is_empty() || url.password().is_some() {
        // Neither fails for a URL that has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let problem =
            "the S3 endpoint must not hold credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Err(StorageError::new(StorageErrorKind::InvalidUri, "opening", url.as_str(), problem));
    }
    let shown = url.as_str().trim_end_matches('/').to_owned();
    Ok(Some(Endpoint { url: given, shown }))
}

/// What is not a URL might still hold a password before an `@`.
fn shown(given: &str) -> String {
    given.rsplit('@').next().unwrap_or_default().escape_debug().take(120).collect()
}
