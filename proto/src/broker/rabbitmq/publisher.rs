//! Publishing with confirms: callers hand over, one task sends.
//!
//! One task, because a channel takes its delivery tags in the order of its callers but sends in the order of their
//! luck; and because only one place can know what has to be sent again after the connection was lost. Callers do
//! not wait for each other: up to a window of publishes is on its way.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::link::Link;
use super::request::{PublisherOptions, Request, Stall};
use super::sender::Sender;
use crate::broker::{BrokerError, Message, QueueName};

/// Bodies are weighed in units of this many bytes, to fit large windows into a semaphore.
const WEIGHT_UNIT: usize = 1024;

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
        let request = Request::new(queue.clone(), message, answer, (place, room));
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
