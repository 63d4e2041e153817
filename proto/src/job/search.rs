//! Searching: one query to embed, and the vector that comes back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{JobId, JobItem};

/// The code of a worker's answer to a query that it does not embed, because its model has another space than is wanted.
pub const SPACE_MISMATCH: &str = "space_mismatch";

/// A query to embed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchJob {
    /// What is searched for.
    pub query: Query,
    /// Which space the vectors must lie in; absent: that of the worker's model. A worker with another space answers
    /// `space_mismatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub embedding_space: Option<String>,
}

/// What is searched for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(clippy::large_enum_variant, reason = "there is one query at a time")]
pub enum Query {
    /// Pictures that these words describe.
    Text {
        /// The words; what exceeds the model's limit is cut off.
        #[schemars(length(min = 1, max = 4096))]
        text: String,
    },
    /// Pictures like this one.
    Image {
        /// The picture.
        item: JobItem,
    },
}

/// What a worker answers to a search job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchReply {
    /// Version of the contract, `MAJOR.MINOR`.
    pub version: String,
    /// The job that is answered.
    pub job: JobId,
    /// The vectors, or why there are none.
    #[serde(flatten)]
    pub result: SearchResult,
}

/// The vectors of a query, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status")]
pub enum SearchResult {
    /// The query is embedded.
    #[serde(rename = "ok")]
    Ok {
        /// Unit vectors: one of length D for a text, Q of them for a picture.
        embedding: Vec<Vec<f32>>,
        /// Which space they lie in; only rows of the same `embedding_space` may be compared.
        embedding_space: String,
        /// Id of the bundle that made them.
        bundle: String,
    },
    /// The query cannot be embedded.
    #[serde(rename = "failed")]
    Err {
        /// Error code, as rows have it.
        code: String,
        /// What went wrong, for people.
        message: String,
    },
}
