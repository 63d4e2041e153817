//! What the engine is asked for, and what it answers.

use std::sync::Arc;
use std::time::Instant;

use captionfleet_model::constraint::Constraint;
use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_model::{Adapter, SamplingOptions, StopReason};
use half::f16;
use tokio::sync::oneshot;

use super::{DeviceTime, EngineError};

/// One request as the scheduler knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Nobody in particular: throughput counts.
    Bulk,
    /// A person: it goes first at the next step.
    Interactive,
}

/// One thing to say about a picture.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The whole prompt, with the image placeholder once.
    pub prompt: Arc<str>,
    /// How tokens are chosen, and how many at most.
    pub sampling: SamplingOptions,
    /// What may be said.
    pub manner: Manner,
}

impl Ask {
    /// Asks for this alone, and takes whatever is said.
    pub fn alone(prompt: Arc<str>, sampling: SamplingOptions) -> Arc<[Self]> {
        Arc::new([Self { prompt, sampling, manner: Manner::Free }])
    }
}

/// What may be said.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Whatever the model says until it ends its answer.
    Free,
    /// Whatever the model says, past the end of its answer, as the reference's evaluation reads it.
    Unended,
    /// This and nothing else: how likely it is counts. As in training, the begin-of-text token stands in front of the
    /// prompt, and the end mark counts as said.
    Exactly(Arc<str>),
    /// What this allows, token by token.
    Within(Arc<Constraint>),
}

/// One picture to describe or ask about.
#[derive(Debug, Clone)]
pub struct CaptionRequest {
    /// The picture at the network's sizes.
    pub picture: PreparedPicture,
    /// What is asked about it, at least one thing; the picture is looked at once for all of it.
    pub asks: Arc<[Ask]>,
    /// The adapter that the language model uses for it; none: the model as it is.
    pub adapter: Option<Arc<Adapter>>,
    /// Whether the search embedding is wanted too; it costs no second vision pass where the bundle shares one.
    pub embed: bool,
    /// Who waits.
    pub priority: Priority,
}

/// What was said to one [`Ask`].
#[derive(Debug, Clone)]
pub struct Said {
    /// The answer, trimmed of prompt remains and stop text.
    pub text: String,
    /// Tokens said, the stop token included.
    pub tokens: u32,
    /// Sum of the natural logarithms of the probabilities that the model gave them.
    pub logprob: f64,
    /// Natural logarithm of the answer's share among all that [`Manner::Within`] allows.
    pub share: Option<f64>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// What the model said about a picture.
#[derive(Debug, Clone)]
pub struct CaptionResult {
    /// The answer, trimmed of prompt remains and stop text; that to the first of several things.
    pub caption: String,
    /// Tokens said, stop tokens included; those of all answers.
    pub tokens: u32,
    /// Mean natural logarithm of the probabilities the model gave them.
    pub mean_logprob: f32,
    /// Why the answer ended; that which ended too soon, if one did.
    pub stop_reason: StopReason,
    /// The answers one by one, in the order of what was asked.
    pub said: Vec<Said>,
    /// The search embedding, vector after vector, if it was asked for.
    pub embedding: Option<Vec<f16>>,
    /// What it took of the device, all answers together.
    pub device: DeviceTime,
}

impl CaptionResult {
    /// Puts answers together; the first one's embedding is the picture's. `None` if there are none.
    pub(super) fn of(answers: Vec<OneAnswer>) -> Option<Self> {
        let device = answers.iter().fold(DeviceTime::default(), |sum, answer| sum.and(&answer.device));
        let (said, embeddings): (Vec<Said>, Vec<_>) =
            answers.into_iter().map(|answer| (answer.said, answer.embedding)).unzip();
        let first = said.first()?;
        let tokens: u32 = said.iter().map(|said| said.tokens).sum();
        let logprob: f64 = said.iter().map(|said| said.logprob).sum();
        let ran_out =
            |said: &&Said| matches!(said.stop_reason, StopReason::MaxTokens | StopReason::ContextFull);
        Some(Self {
            caption: first.text.clone(),
            tokens,
            mean_logprob: (logprob / f64::from(tokens.max(1))) as f32,
            stop_reason: said.iter().find(ran_out).unwrap_or(first).stop_reason,
            embedding: embeddings.into_iter().next().flatten(),
            said,
            device,
        })
    }
}

/// A text in the words of the retrieval heads, to compare pictures with.
#[derive(Debug, Clone)]
pub struct MatchText(pub(super) Arc<[u32]>);

/// One answer on its way back.
#[derive(Debug)]
pub(super) struct OneAnswer {
    pub(super) said: Said,
    /// The picture's, if it was asked for and this is the first answer.
    pub(super) embedding: Option<Vec<f16>>,
    pub(super) device: DeviceTime,
}

/// What comes back, or why nothing does.
pub(super) type Answer<T> = Result<T, EngineError>;

/// Where an answer goes, and since when it is waited for. A closed one is a cancelled request.
#[derive(Debug)]
pub(super) struct Reply<T> {
    asked: Instant,
    sender: oneshot::Sender<Answer<T>>,
}

impl<T> Reply<T> {
    /// For a request that is asked now.
    pub(super) fn channel() -> (Self, oneshot::Receiver<Answer<T>>) {
        let (sender, answer) = oneshot::channel();
        (Self { asked: Instant::now(), sender }, answer)
    }

    /// Answers. An error means that nobody listens any more.
    pub(super) fn send(self, answer: Answer<T>) -> Result<(), Answer<T>> {
        self.sender.send(answer)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Seconds that it has been waited for.
    pub(super) fn waited(&self) -> f64 {
        self.asked.elapsed().as_secs_f64()
    }
}

/// One request on its way to the device thread.
#[derive(Debug)]
pub(super) enum Work {
    /// One ask of a request. The first one brings the others' replies along until the picture has been seen.
    Caption {
        request: Arc<CaptionRequest>,
        at: usize,
        reply: Reply<OneAnswer>,
        others: Vec<Reply<OneAnswer>>,
    },
    Picture {
        picture: Box<PreparedPicture>,
        reply: Reply<Vec<Vec<f32>>>,
    },
    Text {
        text: String,
        reply: Reply<Vec<f32>>,
    },
    Match {
        picture: Box<PreparedPicture>,
        text: MatchText,
        reply: Reply<f32>,
    },
}

impl Work {
    pub(super) fn priority(&self) -> Priority {
        match self {
            Self::Caption { request, .. } => request.priority,
            Self::Picture { .. } | Self::Text { .. } | Self::Match { .. } => Priority::Interactive,
        }
    }

    /// The adapter that it asks for.
    pub(super) fn adapter(&self) -> Option<&Arc<Adapter>> {
        match self {
            Self::Caption { request, .. } => request.adapter.as_ref(),
            Self::Picture { .. } | Self::Text { .. } | Self::Match { .. } => None,
        }
    }

    /// Whether the picture's embedding is wanted.
    pub(super) fn embeds(&self) -> bool {
        match self {
            Self::Caption { request, .. } => request.embed,
            Self::Picture { .. } => true,
            Self::Text { .. } | Self::Match { .. } => false,
        }
    }

    /// The other asks of a request, of which this one is the first.
    pub(super) fn take_others(&mut self) -> Vec<Self> {
        let Self::Caption { request, others, .. } = self else { return Vec::new() };
        let replies = std::mem::take(others).into_iter().enumerate();
        let other = |(before, reply)| Self::Caption {
            request: Arc::clone(request),
            at: before + 1,
            reply,
            others: Vec::new(),
        };
        replies.map(other).collect()
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Caption { reply, .. } => reply.is_closed(),
            Self::Picture { reply, .. } => reply.is_closed(),
            Self::Text { reply, .. } => reply.is_closed(),
            Self::Match { reply, .. } => reply.is_closed(),
        }
    }

    /// Seconds since it was asked; `None` for the other asks of a request, which wait for the first one's picture.
    pub(super) fn waited(&self) -> Option<f64> {
        match self {
            Self::Caption { at, reply, .. } => (*at == 0).then(|| reply.waited()),
            Self::Picture { reply, .. } => Some(reply.waited()),
            Self::Text { reply, .. } => Some(reply.waited()),
            Self::Match { reply, .. } => Some(reply.waited()),
        }
    }

    /// Answers with an error. Nobody listening is fine: the request was cancelled.
    pub(super) fn fail(self, error: EngineError) {
        match self {
            Self::Caption { reply, others, .. } => {
                for reply in others.into_iter().chain([reply]) {
                    drop(reply.send(Err(error.clone())));
                }
            }
            Self::Picture { reply, .. } => drop(reply.send(Err(error))),
            Self::Text { reply, .. } => drop(reply.send(Err(error))),
            Self::Match { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
