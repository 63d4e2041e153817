//! What a run is: its manifest (JSON) and the table of its items (Parquet).

mod items;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use items::{PlannedItem, read_items, write_items};

use crate::job::{JobAdapter, JobItem, Prompt, RunId, Sampling};

/// One submission: what was asked of which sources, and how much it came to. Written once, before the first job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunManifest {
    /// Version of the contract, `MAJOR.MINOR`.
    pub version: String,
    /// The run.
    pub run: RunId,
    /// When it was planned.
    #[schemars(with = "String")]
    pub created_at: Timestamp,
    /// The sources, as the user gave them.
    pub source: Vec<String>,
    /// What is asked about each item.
    pub prompt: Prompt,
    /// See [`Prompt::prompt_hash`].
    pub prompt_hash: String,
    /// Longest answer in tokens; absent: the worker's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The adapter that the model uses, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<JobAdapter>,
    /// Whether rows get embeddings.
    pub embed: bool,
    /// Id of the bundle that must serve the run, if one was required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Which frames of its videos become rows; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sampling>,
    /// Whether the frames of its videos are kept as small pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnails: Option<bool>,
    /// Number of items in the items table. When the run is complete, each picture has exactly one row, and the rows of
    /// a video's segments cover its time without a gap.
    pub items: u64,
    /// Number of jobs.
    pub jobs: u64,
    /// Largest number of items in a job.
    pub job_size: u64,
    /// Number of files of the items table.
    pub item_files: u32,
    /// Items of the sources that were left out because an equal `ok` row existed.
    pub already_done: u64,
    /// Version of the program that planned it.
    pub captionfleet: String,
    /// Fields of later minor versions, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl RunManifest {
    /// The hash in an item's row, see [`crate::job::CaptionJob::prompt_hash_of`].
    pub fn prompt_hash_of(&self, item: &JobItem) -> String {
        self.prompt.hash_of(item, self.max_tokens, self.adapter.as_ref())
    }
}
