//! The unit of work: a slice of a run to caption, one query to embed, or candidates to re-rank. Data only.
//!
//! The JSON spelling of these types is the public interface; `proto/README.md` shows it by example,
//! `proto/schema/job.json` is generated from them, and golden files pin it.

mod adapter;
mod caption;
mod ids;
mod questions;
mod rerank;
mod sampling;
mod search;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use adapter::JobAdapter;
pub use caption::{CaptionJob, IMAGE_PLACEHOLDER, JobItem, Prompt, QUESTION_PLACEHOLDER};
pub use ids::{IdError, JobId, MAX_ID_CHARS, RunId};
pub use questions::{AnswerForm, MAX_CHOICES, MAX_QUESTIONS, Question, problem_of};
pub use rerank::{MAX_CANDIDATES, Match, RerankJob, RerankReply, RerankResult};
pub use sampling::{ANCHOR_MS, LATE_START_MS, SampleBy, Sampling};
pub use search::{Query, SPACE_MISMATCH, SearchJob, SearchReply, SearchResult};

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
    /// When whoever asked stops waiting: a worker drops the job afterwards, or as soon as the mailbox of its message is
    /// gone. For jobs that someone waits for; those of a run have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub deadline: Option<Timestamp>,
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
    /// Say how well a text describes pictures; the judgements go to the message's `reply_to`.
    Rerank(RerankJob),
}

impl Job {
    /// A job that captions `caption.items` into `archive`, traced by its own id.
    pub fn caption(id: JobId, run: RunId, archive: ArchiveUri, caption: CaptionJob) -> Self {
        Self::new(id, run, archive, JobKind::Caption(caption))
    }

    /// A job that embeds `query`.
    pub fn search(id: JobId, run: RunId, archive: ArchiveUri, query: Query) -> Self {
        Self::new(id, run, archive, JobKind::Search(SearchJob { query, embedding_space: None }))
    }

    /// A job that compares `rerank.items` with its text.
    pub fn rerank(id: JobId, run: RunId, archive: ArchiveUri, rerank: RerankJob) -> Self {
        Self::new(id, run, archive, JobKind::Rerank(rerank))
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
            deadline: None,
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
    deadline: Option<Timestamp>,
    kind: KindName,
    items: Option<Vec<JobItem>>,
    prompt: Option<Prompt>,
    max_tokens: Option<u32>,
    adapter: Option<JobAdapter>,
    embed: Option<bool>,
    thumbnails: Option<bool>,
    query: Option<Query>,
    embedding_space: Option<String>,
    text: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    Caption,
    Search,
    Rerank,
}

impl FlatJob {
    /// The first field that is there although only other kinds have it.
    fn foreign_field(&self) -> Option<&'static str> {
        let (items, query, text) = (self.items.is_some(), self.query.is_some(), self.text.is_some());
        let space = (self.embedding_space.is_some(), "embedding_space");
        let foreign = match self.kind {
            KindName::Caption => vec![(query, "query"), (text, "text"), space],
            KindName::Search => vec![(items, "items"), (text, "text")],
            KindName::Rerank => vec![(query, "query"), (self.prompt.is_some(), "prompt"), space],
        };
        foreign.into_iter().find_map(|(there, name)| there.then_some(name))
    }
}

impl KindName {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Caption => "caption",
            Self::Search => "search",
            Self::Rerank => "rerank",
        }
    }
}

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let flat = FlatJob::deserialize(deserializer)?;
        if let Some(field) = flat.foreign_field() {
            let kind = flat.kind.as_str();
            return Err(D::Error::custom(format_args!("a job of kind `{kind}` has no `{field}`")));
        }
        let items = flat.items.ok_or_else(|| D::Error::missing_field("items"));
        let kind = match flat.kind {
            KindName::Caption => JobKind::Caption(CaptionJob {
                items: items?,
                prompt: flat.prompt.unwrap_or_default(),
                max_tokens: flat.max_tokens,
                adapter: flat.adapter,
                embed: flat.embed.unwrap_or(true),
                thumbnails: flat.thumbnails.unwrap_or(false),
            }),
            KindName::Search => JobKind::Search(SearchJob {
                query: flat.query.ok_or_else(|| D::Error::missing_field("query"))?,
                embedding_space: flat.embedding_space,
            }),
            KindName::Rerank => JobKind::Rerank(RerankJob {
                text: flat.text.ok_or_else(|| D::Error::missing_field("text"))?,
                items: items?,
            }),
        };
        let trace_id = flat.trace_id.unwrap_or_else(|| flat.id.to_string());
        Ok(Self {
            version: flat.version,
            id: flat.id,
            run: flat.run,
            archive: flat.archive,
            bundle: flat.bundle,
            trace_id,
            deadline: flat.deadline,
            kind,
            extra: flat.extra,
        })
    }
}
