//! Re-ranking: how well a text describes each of some pictures, as the model's matching head sees it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{JobId, JobItem};

/// Most pictures of one job: someone waits for all of them.
pub const MAX_CANDIDATES: usize = 256;

/// Pictures to compare with a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RerankJob {
    /// The text; what exceeds the model's limit is cut off.
    #[schemars(length(min = 1, max = 4096))]
    pub text: String,
    /// The pictures. The worker reads them again: the matching head needs more of a picture than its embedding.
    #[schemars(length(min = 1, max = 256))]
    pub items: Vec<JobItem>,
}

/// What a worker answers to a job of kind `rerank`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RerankReply {
    /// Version of the contract, `MAJOR.MINOR`.
    pub version: String,
    /// The job that is answered.
    pub job: JobId,
    /// The judgements, or why there are none.
    #[serde(flatten)]
    pub result: RerankResult,
}

/// The judgements about all pictures of a job, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status")]
pub enum RerankResult {
    /// Every picture was looked at.
    #[serde(rename = "ok")]
    Ok {
        /// One for each item, in their order.
        matches: Vec<Match>,
        /// Id of the bundle that judged.
        bundle: String,
    },
    /// No picture can be judged.
    #[serde(rename = "failed")]
    Err {
        /// Error code, as rows have it.
        code: String,
        /// What went wrong, for people.
        message: String,
    },
}

/// How well the text describes one picture, or why that cannot be said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status")]
pub enum Match {
    /// The picture was judged.
    #[serde(rename = "ok")]
    Judged {
        /// Natural logarithm of the odds that the text describes the picture. The probability is `1 / (1 + exp(-log_odds))`,
        /// which cannot tell the surest ones apart.
        log_odds: f32,
    },
    /// The picture cannot be read.
    #[serde(rename = "failed")]
    Failed {
        /// Error code, as rows have it.
        code: String,
        /// What went wrong, for people.
        message: String,
    },
}
