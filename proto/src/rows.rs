//! The terminal records: one [`Row`] per item, one Parquet object (a *part*) per job.
//!
//! Column names, order and types are public ([`schema`]); DuckDB, Polars, pyarrow and pandas read parts as they
//! are. Embeddings are fixed-size lists of 16-bit floats, `vectors × dim` values in row-major order.

mod answers;
mod column;
mod embeddings;
mod keys;
mod places;
mod read;
mod unfinished;
mod write;

use half::f16;
use jiff::Timestamp;

pub use answers::Answer;
pub use column::schema;
pub use embeddings::{Embeddings, read_embeddings};
pub use keys::{RowKey, read_keys};
pub use places::{EmbeddingPlaces, PartTail};
pub use read::{Projection, read_part, read_shaped_part};
pub use unfinished::{read_unfinished, write_unfinished};
pub use write::write_part;

use crate::job::{JobId, RunId};
pub use crate::table::TableError;
use crate::uri::ItemUri;

/// The `error_code` of a row whose content was removed from the archive on request.
pub const FORGOTTEN: &str = "forgotten";

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Captioned.
    Ok,
    /// Could not be captioned, and trying again would not help; `error_code` says why.
    Failed,
    /// Left out on purpose; `error_code` says why.
    Skipped,
}

impl Status {
    /// The value of the `status` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn from_column(value: &str) -> Option<Self> {
        [Self::Ok, Self::Failed, Self::Skipped].into_iter().find(|status| status.as_str() == value)
    }
}

/// The terminal record of one item. Fields are the columns, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The item's name.
    pub item: ItemUri,
    /// Time of a video's frame in milliseconds, as ffprobe's `pts_time`; in MPEG transport and program streams and WTV, whose
    /// clocks begin anywhere, less the file's `start_time`.
    pub frame_ms: Option<u64>,
    /// How long that frame stands for, in milliseconds.
    pub span_ms: Option<u64>,
    /// How many frames that were looked at it stands for, itself included; absent for pictures.
    pub frames: Option<u32>,
    /// SHA-256 of the bytes, 64 lowercase hexadecimal digits.
    pub sha256: Option<String>,
    /// Version of the bytes that were read, as the storage tells it.
    pub etag: Option<String>,
    /// Width of the decoded picture, in pixels.
    pub width: Option<u32>,
    /// Height of the decoded picture, in pixels.
    pub height: Option<u32>,
    /// What became of the item.
    pub status: Status,
    /// Why it failed or was skipped, from a bounded set.
    pub error_code: Option<String>,
    /// The same, for people.
    pub error_message: Option<String>,
    /// How often the job had been tried when this row was made, this time included.
    pub attempts: u32,
    /// The caption or answer; of several questions all of them with their answers.
    pub caption: Option<String>,
    /// The answers, where questions were asked, in their order.
    pub answers: Option<Vec<Answer>>,
    /// The values of questions that have a name, as a JSON object.
    pub fields: Option<String>,
    /// Number of generated tokens.
    pub tokens: Option<u32>,
    /// Mean natural-log probability of the generated tokens.
    pub mean_logprob: Option<f32>,
    /// Why generation ended.
    pub stop_reason: Option<String>,
    /// Unit vectors, `vectors × dim` values, row-major; absent when not asked for or not ok.
    pub embedding: Option<Vec<f16>>,
    /// Which space the embedding lies in; present exactly when `embedding` is.
    pub embedding_space: Option<String>,
    /// Id of the bundle that served the job.
    pub bundle: Option<String>,
    /// Digest of the adapter that the model used, if the job asked for one.
    pub adapter: Option<String>,
    /// What was asked, see [`crate::job::Prompt::prompt_hash`].
    pub prompt_hash: String,
    /// The item whose row holds the answer, when this one was skipped as its duplicate.
    pub duplicate_of: Option<String>,
    /// The run.
    pub run: RunId,
    /// The job.
    pub job: JobId,
    /// Links log lines and rows of one submission: its OpenTelemetry trace where tracing is on.
    pub trace_id: String,
    /// The worker that made the row; absent where none did.
    pub worker: Option<String>,
    /// This row's share of the device's time in seconds: each step's time is shared out evenly among its rows.
    pub device_seconds: Option<f32>,
    /// Energy that the device used in that time, in joules; absent where nothing measured it.
    pub device_joules: Option<f32>,
    /// When that worker got the job; stored to the microsecond.
    pub started_at: Option<Timestamp>,
    /// When the row was made; stored to the microsecond.
    pub finished_at: Timestamp,
}

impl Row {
    /// Whether what was seen was removed from the archive on request.
    pub fn is_forgotten(&self) -> bool {
        self.status == Status::Skipped && self.error_code.as_deref() == Some(FORGOTTEN)
    }
}

/// Shape of the published model's embeddings: for parts without any, so that all parts are alike.
pub const USUAL_SHAPE: EmbeddingShape = EmbeddingShape { vectors: 32, dim: 256 };

/// How an embedding's values are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbeddingShape {
    /// Number of vectors per item (query tokens of the Q-Former).
    pub vectors: u32,
    /// Length of each vector.
    pub dim: u32,
}

impl EmbeddingShape {
    /// Number of values per item.
    pub fn len(self) -> usize {
        self.vectors as usize * self.dim as usize
    }

    /// Whether an embedding would have no values at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}
