//! Publishing with confirms: callers hand over, one task sends.
//!
//! One task, because a channel takes its delivery tags in the order of its callers but sends in the order of their
//! luck; and because only one place can know what has to be sent again after the connection was lost. Callers do
//! not wait for each other: up to a window of publishes is on its way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::link::Link;
use super::sender::Sender;
use crate::broker::{BrokerError, BrokerErrorKind, Message, QueueName};

/// Bodies are weighed in units of this many bytes, to fit large windows into a semaphore.
const WEIGHT_UNIT: usize = 1024;

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

/// The callers' side.
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    window_bytes: Arc<Semaphore>,
    window_weight: usize,
    link: Arc<Link>,
    stall: Stall,
    sender: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    pub(super) fn start(link: Arc<Link>, options: PublisherOptions) -> Self {
        let window = options.window.max(1);
        let window_weight = weight(options.window_bytes).min(u32::MAX as usize);
        // Never full: whoever sends holds a permit of the window.
        let (requests, incoming) = mpsc::channel(window);
        let stall = Stall::default();
        let sender = Sender::new(Arc::clone(&link), incoming, options, stall.clone());
        Self {
            requests,
            window: Arc::new(Semaphore::new(window)),
            window_bytes: Arc::new(Semaphore::new(window_weight)),
            window_weight,
            link,
            stall,
            sender: Mutex::new(Some(tokio::spawn(sender.run()))),
        }
    }

    /// Returns once the message is confirmed, however many connections that takes.
    pub(super) async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        let closed = || self.link.closed("publish to");
        let weight = weight(message.body.len()).min(self.window_weight) as u32;
        let place = Arc::clone(&self.window).acquire_owned().await.map_err(|_| closed())?;
        let room = Arc::clone(&self.window_bytes).acquire_many_owned(weight).await.map_err(|_| closed())?;
        let (answer, outcome) = oneshot::channel();
        let request =
            Request { queue: queue.clone(), message, nacks: 0, faults: 0, answer, _permits: (place, room) };
        self.requests.send(request).await.map_err(|_| closed())?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Why nothing is confirmed at the moment, if so.
    pub(super) fn stalled(&self) -> Option<String> {
        self.stall.get()
    }

    /// Waits for the sending task to end; the link must be closing.
    pub(super) async fn close(&self) {
        self.window.close();
        self.window_bytes.close();
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender
            && let Err(error) = sender.await
        {
            tracing::error!(error = %error, "the publisher panicked");
        }
    }
}

fn weight(bytes: usize) -> usize {
    bytes.div_ceil(WEIGHT_UNIT).max(1)
}
