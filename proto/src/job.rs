//! The unit of work: a slice of a run to caption, or one query to embed. Data only.
//!
//! The JSON spelling of these types is the public interface; `proto/README.md` shows it by example,
//! `proto/schema/job.json` is generated from them, and golden files pin it.

mod adapter;
mod caption;
mod ids;
mod questions;
mod sampling;
mod search;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use adapter::JobAdapter;
pub use caption::{CaptionJob, IMAGE_PLACEHOLDER, JobItem, Prompt, QUESTION_PLACEHOLDER};
pub use ids::{IdError, JobId, MAX_ID_CHARS, RunId};
pub use questions::{AnswerForm, MAX_CHOICES, MAX_QUESTIONS, Question, problem_of};
pub use sampling::{ANCHOR_MS, LATE_START_MS, SampleBy, Sampling};
pub use search::{Query, SearchJob, SearchReply, SearchResult};

use crate::uri::ArchiveUri;

/// Version of the contract that this crate speaks. Another minor version is understood, another major is not.
pub const VERSION: &str = "1.0";

/// Which queue a job waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Runs over many pictures.
    Bulk,
    /// Other runs, so that they need not wait behind those: see [`crate::broker::lanes`].
    #[serde(rename = "bulk.2")]
    Bulk2,
    /// Someone is waiting.
    Interactive,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Bulk, Self::Bulk2, Self::Interactive];
    /// The lanes for runs, which workers take from alike.
    pub const BULK: [Self; 2] = [Self::Bulk, Self::Bulk2];

    /// The name, as in queue names and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Bulk2 => "bulk.2",
            Self::Interactive => "interactive",
        }
    }

    /// Whether nobody in particular waits for its jobs.
    pub fn is_bulk(self) -> bool {
        Self::BULK.contains(&self)
    }
}

/// One message of work.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Job {
    /// Version of the contract, `MAJOR.MINOR`; the major must be 1.
    #[schemars(regex(pattern = "^1(\\.[0-9]{1,9})?$"))]
    pub version: String,
    /// Names the job and, with the run, its part: publishing a job twice does its work once.
    pub id: JobId,
    /// The run this job is a slice of.
    pub run: RunId,
    /// Where the part goes.
    pub archive: ArchiveUri,
    /// Id of the bundle that must serve this job; absent: whichever bundle the worker has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub bundle: Option<String>,
    /// Links log lines and rows of one submission; absent: the trace that the job is part of, else the job's id.
    #[schemars(with = "Option<String>", length(min = 1, max = 128))]
    pub trace_id: String,
    /// What is to be done.
    #[serde(flatten)]
    pub kind: JobKind,
    /// Fields of later minor versions, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a job asks for.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum JobKind {
    /// Caption (or answer a question on) pictures and embed them; the rows go into a part.
    Caption(CaptionJob),
    /// Embed one query; the vector goes to the message's `reply_to`.
    Search(SearchJob),
}

impl Job {
    /// A job that captions `caption.items` into `archive`, traced by its own id.
    pub fn caption(id: JobId, run: RunId, archive: ArchiveUri, caption: CaptionJob) -> Self {
        Self::new(id, run, archive, JobKind::Caption(caption))
    }

    /// A job that embeds `query`.
    pub fn search(id: JobId, run: RunId, archive: ArchiveUri, query: Query) -> Self {
        Self::new(id, run, archive, JobKind::Search(SearchJob { query }))
    }

    fn new(id: JobId, run: RunId, archive: ArchiveUri, kind: JobKind) -> Self {
        let trace_id = id.to_string();
        Self {
            version: VERSION.to_owned(),
            id,
            run,
            archive,
            bundle: None,
            trace_id,
            kind,
            extra: Map::new(),
        }
    }

    /// An id that depends on nothing but what the job is: planning the same slice again yields the same id.
    ///
    /// `ordinal` is the slice's place in the run, from zero; ids sort by it. Where the bytes are fetched from
    /// ([`JobItem::fetch`]) does not count.
    pub fn deterministic_id(run: &RunId, ordinal: u64, items: &[JobItem], prompt_hash: &str) -> JobId {
        ids::of_slice(run, ordinal, items, prompt_hash)
    }
}

/// The fields of every kind side by side: serde's own flattening would copy a job's items into `extra`.
#[derive(Deserialize)]
struct FlatJob {
    version: String,
    id: JobId,
    run: RunId,
    archive: ArchiveUri,
    bundle: Option<String>,
    trace_id: Option<String>,
    kind: KindName,
    items: Option<Vec<JobItem>>,
    prompt: Option<Prompt>,
    max_tokens: Option<u32>,
    adapter: Option<JobAdapter>,
    embed: Option<bool>,
    thumbnails: Option<bool>,
    query: Option<Query>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Caption,
    Search,
}

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let flat = FlatJob::deserialize(deserializer)?;
        let kind = match flat.kind {
            KindName::Caption => {
                if flat.query.is_some() {
                    return Err(D::Error::custom("a job of kind `caption` has no `query`"));
                }
                JobKind::Caption(CaptionJob {
                    items: flat.items.ok_or_else(|| D::Error::missing_field("items"))?,
                    prompt: flat.prompt.unwrap_or_default(),
                    max_tokens: flat.max_tokens,
                    adapter: flat.adapter,
                    embed: flat.embed.unwrap_or(true),
                    thumbnails: flat.thumbnails.unwrap_or(false),
                })
            }
            KindName::Search => {
                if flat.items.is_some() {
                    return Err(D::Error::custom("a job of kind `search` has no `items`"));
                }
                JobKind::Search(SearchJob {
                    query: flat.query.ok_or_else(|| D::Error::missing_field("query"))?,
                })
            }
        };
        let trace_id = flat.trace_id.unwrap_or_else(|| flat.id.to_string());
        Ok(Self {
            version: flat.version,
            id: flat.id,
            run: flat.run,
            archive: flat.archive,
            bundle: flat.bundle,
            trace_id,
            kind,
            extra: flat.extra,
        })
    }
}
