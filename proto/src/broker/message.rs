//! What travels through a queue.

use bytes::Bytes;
use jiff::Timestamp;

use super::QueueName;
use crate::trace_context::TraceContext;

/// A message as published and as delivered. The body is opaque here; `crate::codec` gives it meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The body, JSON by contract.
    pub body: Bytes,
    /// The job's id. Empty when a foreign publisher left it out.
    pub message_id: String,
    /// What a reply refers to.
    pub correlation_id: Option<String>,
    /// Where the outcome or the reply goes.
    pub reply_to: Option<QueueName>,
    /// The trace that it belongs to; retries and dead letters keep it.
    pub trace: Option<TraceContext>,
    /// Attempts that failed before this delivery; 0 when the publisher said nothing. The broker's own count
    /// is [`super::Delivery::delivery_count`]: the two are independent.
    pub attempts: u32,
    /// When the first of those attempts failed.
    pub first_failed_at: Option<Timestamp>,
    /// How often a worker held it as long as it holds any, and gave it back with what was done of it kept.
    pub turns: u32,
    /// Why the message is a dead letter, if it is one.
    pub dead: Option<DeadReason>,
}

/// Why a message was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadReason {
    /// A bounded word: a code of ours, or the broker's `rejected` or `delivery_limit`.
    pub code: String,
    /// The chain of errors, for people; cut to a few kilobytes on the wire. Empty if the broker gave up.
    pub message: String,
    /// When the first attempt failed.
    pub first_failed_at: Option<Timestamp>,
    /// When the message was given up.
    pub failed_at: Option<Timestamp>,
    /// The queue it was taken from.
    pub queue: Option<QueueName>,
}

impl Message {
    /// A first-time message without reply address.
    pub fn new(message_id: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            message_id: message_id.into(),
            correlation_id: None,
            reply_to: None,
            trace: None,
            attempts: 0,
            first_failed_at: None,
            turns: 0,
            dead: None,
        }
    }

    /// The same message after one more failed attempt, to be published to a delayed-retry queue.
    #[must_use]
    pub fn retried(mut self, failed_at: Timestamp) -> Self {
        self.attempts = self.attempts.saturating_add(1);
        self.first_failed_at.get_or_insert(failed_at);
        self
    }

    /// The same message for its next turn: nothing has failed.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.turns = self.turns.saturating_add(1);
        self
    }
}
