//! Versioned bytes and back: JSON for messages and manifests, with limits that hold before anything is believed.
//!
//! A message of another *minor* version is read, and the fields it has more are kept; what of a later one cannot be read is
//! reported as [`DecodeError::LaterVersion`], and whoever holds the bytes passes them on untouched. One of another *major*
//! version is reported as [`DecodeError::UnknownVersion`] without looking further, and kept untouched.

mod check;
mod version;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::job::{Job, RerankReply, SearchReply, VERSION};
use crate::manifest::RunManifest;
use crate::outcome::JobOutcome;

use version::Version;

/// Most bytes a message may have.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Most items a job may have.
pub const MAX_ITEMS: usize = 10_000;

/// What a message may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the body.
    pub max_bytes: usize,
    /// Items of a job.
    pub max_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: MAX_MESSAGE_BYTES, max_items: MAX_ITEMS }
    }
}

/// Why bytes are not a message (or a message cannot become bytes that others accept).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than allowed.
    #[error("the message has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not JSON, or JSON of another form.
    #[error("not a valid message: {0}")]
    Malformed(String),
    /// Another major version.
    #[error("the message has contract version {version}, this program speaks 1.x")]
    UnknownVersion {
        /// What the message says.
        version: String,
    },
    /// A later minor version says something that this program does not know.
    #[error(
        "the message has contract version {version}, of which this program, at {VERSION}, does not know everything: {problem}"
    )]
    LaterVersion {
        /// What the message says.
        version: String,
        /// What cannot be read.
        problem: String,
    },
    /// A job of more items than allowed.
    #[error("the job has {items} items; at most {limit} are allowed")]
    TooManyItems {
        /// Their number.
        items: usize,
        /// The limit.
        limit: usize,
    },
    /// A field whose value is not allowed.
    #[error("field `{field}`: {problem}")]
    Invalid {
        /// The field, e.g. `items[3].sha256`.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

impl DecodeError {
    /// A short name for headers, logs and metrics, from a bounded set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "message_too_large",
            Self::Malformed(_) => "message_malformed",
            Self::UnknownVersion { .. } | Self::LaterVersion { .. } => "message_unknown_version",
            Self::TooManyItems { .. } => "message_too_many_items",
            Self::Invalid { .. } => "message_invalid",
        }
    }

    /// The same, if it is of a later minor version: that is what is wrong with it then.
    fn of_version(self, version: Version) -> Self {
        if version.is_later() {
            return Self::LaterVersion { version: version.to_string(), problem: self.to_string() };
        }
        self
    }
}

/// Reads a job within the default [`Limits`].
pub fn decode_job(bytes: &[u8]) -> Result<Job, DecodeError> {
    decode_job_within(bytes, Limits::default())
}

/// Reads a job.
pub fn decode_job_within(bytes: &[u8], limits: Limits) -> Result<Job, DecodeError> {
    let (job, version): (Job, Version) = decode_versioned(bytes, limits)?;
    check::job(&job, limits).map_err(|error| error.of_version(version))?;
    Ok(job)
}

/// Writes a job that [`decode_job`] accepts, or says why it would not.
pub fn encode_job(job: &Job) -> Result<Bytes, DecodeError> {
    check::job(job, Limits::default())?;
    encode(job)
}

/// Reads an outcome.
pub fn decode_outcome(bytes: &[u8]) -> Result<JobOutcome, DecodeError> {
    decode(bytes, Limits::default())
}

/// Writes an outcome.
pub fn encode_outcome(outcome: &JobOutcome) -> Result<Bytes, DecodeError> {
    encode(outcome)
}

/// Reads the answer to a search.
pub fn decode_reply(bytes: &[u8]) -> Result<SearchReply, DecodeError> {
    let reply: SearchReply = decode(bytes, Limits::default())?;
    check::reply(&reply)?;
    Ok(reply)
}

/// Writes the answer to a search.
pub fn encode_reply(reply: &SearchReply) -> Result<Bytes, DecodeError> {
    check::reply(reply)?;
    encode(reply)
}

/// Reads the answer to a job of kind `rerank`.
pub fn decode_rerank_reply(bytes: &[u8]) -> Result<RerankReply, DecodeError> {
    let reply: RerankReply = decode(bytes, Limits::default())?;
    check::rerank_reply(&reply)?;
    Ok(reply)
}

/// Writes the answer to a job of kind `rerank`.
pub fn encode_rerank_reply(reply: &RerankReply) -> Result<Bytes, DecodeError> {
    check::rerank_reply(reply)?;
    encode(reply)
}

/// Reads a run's manifest.
pub fn decode_manifest(bytes: &[u8]) -> Result<RunManifest, DecodeError> {
    decode(bytes, Limits::default())
}

/// Writes a run's manifest, indented for people, or says that it is larger than [`decode_manifest`] accepts.
pub fn encode_manifest(manifest: &RunManifest) -> Result<Bytes, DecodeError> {
    let mut text =
        serde_json::to_vec_pretty(manifest).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    text.push(b'\n');
    within_limit(text)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<T, DecodeError> {
    decode_versioned(bytes, limits).map(|(message, _)| message)
}

fn decode_versioned<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<(T, Version), DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let malformed = |error: serde_json::Error| DecodeError::Malformed(error.to_string());
    let version =
        check::version(serde_json::from_slice::<Envelope>(bytes).map_err(malformed)?.version.as_ref())?;
    let message = serde_json::from_slice(bytes).map_err(|error| malformed(error).of_version(version))?;
    Ok((message, version))
}

fn encode<T: Serialize>(message: &T) -> Result<Bytes, DecodeError> {
    within_limit(serde_json::to_vec(message).map_err(|error| DecodeError::Malformed(error.to_string()))?)
}

fn within_limit(bytes: Vec<u8>) -> Result<Bytes, DecodeError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLarge { bytes: bytes.len(), limit: MAX_MESSAGE_BYTES });
    }
    Ok(bytes.into())
}

/// The one field that is looked at before all others.
#[derive(serde::Deserialize)]
struct Envelope {
    version: Option<Value>,
}
