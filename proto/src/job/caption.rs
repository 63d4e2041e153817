//! Captioning: which pictures, and what is asked about them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{JobAdapter, Question, Sampling};
use crate::uri::ItemUri;

/// Where the picture goes in a raw prompt.
pub const IMAGE_PLACEHOLDER: &str = "<ImageHere>";

/// Where the question goes in the template of several questions.
pub const QUESTION_PLACEHOLDER: &str = "{question}";

/// Pictures to caption (or to ask about) and to embed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaptionJob {
    /// The pictures, each of which gets exactly one row, and segments of videos, which get as many as they show.
    #[schemars(length(min = 1, max = 10_000))]
    pub items: Vec<JobItem>,
    /// What is asked about each of them.
    #[serde(default)]
    pub prompt: Prompt,
    /// Longest answer in tokens; absent: the worker's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_tokens: Option<u32>,
    /// The adapter that the model uses; absent: the model as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<JobAdapter>,
    /// Whether rows get an embedding.
    #[serde(default = "yes")]
    pub embed: bool,
    /// Whether frames of videos that get a row are kept as small JPEG files in the archive.
    #[serde(default, skip_serializing_if = "is_false")]
    pub thumbnails: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn yes() -> bool {
    true
}

/// One picture, or one segment of a video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobItem {
    /// The picture's name, as the row will have it.
    pub uri: ItemUri,
    /// Where the bytes are, if not at `uri` (e.g. a copy staged for other machines).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<ItemUri>,
    /// Version of the bytes when the job was planned, as the storage tells it. The row records what was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Size in bytes when the job was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of the bytes, 64 lowercase hexadecimal digits, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Where a segment begins, in milliseconds from the video's start; absent for pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_ms: Option<u64>,
    /// How long it lasts, in milliseconds; absent for pictures, and for the last segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_ms: Option<u64>,
    /// Makes the item a segment of a video, from `frame_ms` on for `span_ms` (absent: to its end), and says which of its
    /// frames become rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sampling>,
    /// How long the whole video is, in milliseconds, as far as it was known when the job was planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub film_ms: Option<u64>,
    /// What is asked about this item alone, beside the questions of the job's prompt, which must be of that kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub questions: Vec<Question>,
    /// Fields of later minor versions, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl JobItem {
    /// A picture of which nothing but the name is known.
    pub fn new(uri: ItemUri) -> Self {
        Self {
            uri,
            fetch: None,
            etag: None,
            size: None,
            sha256: None,
            frame_ms: None,
            span_ms: None,
            sample: None,
            film_ms: None,
            questions: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Where the bytes are.
    pub fn source(&self) -> &ItemUri {
        self.fetch.as_ref().unwrap_or(&self.uri)
    }
}

/// What is asked about a picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Prompt {
    /// Describe it, in the words of the bundle's own template.
    #[default]
    Caption,
    /// Answer a question, inside the bundle's own template.
    Ask {
        /// The question.
        #[schemars(length(min = 1, max = 4096))]
        question: String,
    },
    /// Continue exactly this text.
    Raw {
        /// The whole prompt; `<ImageHere>` stands in it once, where the picture goes.
        #[schemars(length(min = 1, max = 16384), regex(pattern = "<ImageHere>"))]
        template: String,
    },
    /// Answer several questions, each on its own; the picture is looked at once.
    Questions {
        /// The questions about every item; items may have more of their own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 1000))]
        questions: Vec<Question>,
        /// The whole prompt around each question, with `<ImageHere>` and `{question}` in it once; absent: the bundle's
        /// own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 16384), regex(pattern = "<ImageHere>"))]
        template: Option<String>,
    },
}

impl Prompt {
    /// What is asked, in one line for people; nothing for captions.
    pub fn in_words(&self) -> Option<String> {
        match self {
            Self::Caption => None,
            Self::Ask { question } => Some(question.clone()),
            Self::Raw { template } => Some(template.clone()),
            Self::Questions { questions, .. } if questions.is_empty() => {
                Some("questions of each item".to_owned())
            }
            Self::Questions { questions, .. } => {
                let texts: Vec<_> = questions.iter().map(|question| question.question.as_str()).collect();
                Some(texts.join(" · "))
            }
        }
    }

    /// 16 hexadecimal digits that name what is asked: rows of equal bytes, bundle and hash are interchangeable.
    ///
    /// The first 16 digits of SHA-256 over `{"max_tokens":N|null,"prompt":{…}}` with sorted keys and no blanks.
    pub fn prompt_hash(&self, max_tokens: Option<u32>) -> String {
        self.hash_with(&[], max_tokens)
    }

    /// The same for an item with questions of its own, which count behind those of the job.
    fn hash_with(&self, own: &[Question], max_tokens: Option<u32>) -> String {
        let prompt = match self {
            Self::Caption => json!({"task": "caption"}),
            Self::Ask { question } => json!({"question": question, "task": "ask"}),
            Self::Raw { template } => json!({"task": "raw", "template": template}),
            Self::Questions { questions, template } => {
                let questions: Vec<_> = questions.iter().chain(own).map(Question::canonical).collect();
                match template {
                    Some(template) => {
                        json!({"questions": questions, "task": "questions", "template": template})
                    }
                    None => json!({"questions": questions, "task": "questions"}),
                }
            }
        };
        let canonical = json!({"max_tokens": max_tokens, "prompt": prompt}).to_string();
        hex::encode(Sha256::digest(canonical))[..16].to_owned()
    }

    /// The hash in the row of an item of which this is asked with these settings.
    pub(crate) fn hash_of(
        &self,
        item: &JobItem,
        max_tokens: Option<u32>,
        adapter: Option<&JobAdapter>,
    ) -> String {
        JobAdapter::prompt_hash(adapter, self.hash_with(&item.questions, max_tokens))
    }
}

impl CaptionJob {
    /// A job that captions and embeds `items` with the worker's own limits.
    pub fn new(items: Vec<JobItem>) -> Self {
        Self {
            items,
            prompt: Prompt::default(),
            max_tokens: None,
            adapter: None,
            embed: true,
            thumbnails: false,
        }
    }

    /// See [`Prompt::prompt_hash`] and [`JobAdapter::prompt_hash`].
    pub fn prompt_hash(&self) -> String {
        JobAdapter::prompt_hash(self.adapter.as_ref(), self.prompt.prompt_hash(self.max_tokens))
    }

    /// The hash in the item's row: that of the job, unless the item has questions of its own.
    pub fn prompt_hash_of(&self, item: &JobItem) -> String {
        self.prompt.hash_of(item, self.max_tokens, self.adapter.as_ref())
    }
}
