//! What a publisher's callers hand over to the task that sends, and what that tells them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::broker::{BrokerError, BrokerErrorKind, Message, QueueName};

/// How a publisher behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublisherOptions {
    pub(super) window: usize,
    pub(super) window_bytes: usize,
    pub(super) confirm_timeout: Duration,
    pub(super) operation_timeout: Duration,
}

/// One publish, until its caller has an answer.
pub(super) struct Request {
    pub(super) queue: QueueName,
    pub(super) message: Message,
    /// How often the broker refused it.
    pub(super) nacks: u32,
    /// How often a channel was closed over it or a neighbour.
    pub(super) faults: u32,
    answer: oneshot::Sender<Result<(), BrokerError>>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Request {
    pub(super) fn new(
        queue: QueueName,
        message: Message,
        answer: oneshot::Sender<Result<(), BrokerError>>,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        Self { queue, message, nacks: 0, faults: 0, answer, _permits: permits }
    }

    pub(super) fn answer(self, outcome: Result<(), BrokerError>) {
        // The caller may have lost interest.
        let _ = self.answer.send(outcome);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    pub(super) fn error(&self, kind: BrokerErrorKind) -> BrokerError {
        BrokerError::new(kind, "publish to", format!("queue {}", self.queue))
    }
}

/// Why nothing is confirmed at the moment, if so.
#[derive(Debug, Clone, Default)]
pub(super) struct Stall(Arc<Mutex<Option<String>>>);

impl Stall {
    pub(super) fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
