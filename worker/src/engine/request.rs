//! What the engine is asked for, and what it answers.

use std::sync::Arc;

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_model::{SamplingOptions, StopReason};
use half::f16;
use tokio::sync::oneshot;

use super::EngineError;

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Nobody in particular: throughput counts.
    Bulk,
    /// A person: it goes first at the next step.
    Interactive,
}

/// One picture to describe or ask about.
#[derive(Debug, Clone)]
pub struct CaptionRequest {
    /// The picture at the network's sizes.
    pub picture: PreparedPicture,
    /// The whole prompt, with the image placeholder once.
    pub prompt: Arc<str>,
    /// How tokens are chosen, and how many at most.
    pub sampling: SamplingOptions,
    /// Whether the search embedding is wanted too; it costs no second vision pass where the bundle shares one.
    pub embed: bool,
    /// Who waits.
    pub priority: Priority,
}

/// What the model said about a picture.
#[derive(Debug, Clone)]
pub struct CaptionResult {
    /// The answer, trimmed of prompt remains and stop text.
    pub caption: String,
    /// Tokens generated, the stop token included.
    pub tokens: u32,
    /// Mean natural logarithm of the probabilities the model gave its tokens.
    pub mean_logprob: f32,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The search embedding, vector after vector, if it was asked for.
    pub embedding: Option<Vec<f16>>,
}

/// Where an answer goes. A closed one is a cancelled request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// One request on its way to the device thread.
#[derive(Debug)]
pub(super) enum Work {
    Caption { request: Box<CaptionRequest>, reply: Reply<CaptionResult> },
    Picture { picture: Box<PreparedPicture>, reply: Reply<Vec<Vec<f32>>> },
    Text { text: String, reply: Reply<Vec<f32>> },
}

impl Work {
    pub(super) fn priority(&self) -> Priority {
        match self {
            Self::Caption { request, .. } => request.priority,
            Self::Picture { .. } | Self::Text { .. } => Priority::Interactive,
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Caption { reply, .. } => reply.is_closed(),
            Self::Picture { reply, .. } => reply.is_closed(),
            Self::Text { reply, .. } => reply.is_closed(),
        }
    }

    /// Answers with an error. Nobody listening is fine: the request was cancelled.
    pub(super) fn fail(self, error: EngineError) {
        match self {
            Self::Caption { reply, .. } => drop(reply.send(Err(error))),
            Self::Picture { reply, .. } => drop(reply.send(Err(error))),
            Self::Text { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
