//! One hand-over of a message, to be settled once.

use std::fmt;

use async_trait::async_trait;

use super::{BrokerError, Message, QueueName};

/// What becomes of a message that is not acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Back to its place in the queue, flagged redelivered.
    Yes,
    /// To the queue's dead-letter queue if it has one, otherwise gone.
    No,
}

/// One hand-over of a message. [`Delivery::ack`] and [`Delivery::nack`] consume it: nothing settles twice.
///
/// A delivery that is dropped unsettled goes back to its queue, so that a panic never strands a message.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue it came from.
    pub queue: QueueName,
    /// Whether it may have been handed out before.
    pub redelivered: bool,
    /// How often the broker handed it out before, as far as it counts (0 if it does not).
    pub delivery_count: u64,
    settlement: Box<dyn Settlement>,
}

/// How an implementation settles. Dropping it unsettled requeues the message.
#[async_trait]
pub(crate) trait Settlement: Send + Sync {
    async fn ack(self: Box<Self>) -> Result<(), BrokerError>;
    async fn nack(self: Box<Self>, requeue: Requeue) -> Result<(), BrokerError>;
}

impl Delivery {
    pub(crate) fn new(
        message: Message,
        queue: QueueName,
        redelivered: bool,
        delivery_count: u64,
        settlement: Box<dyn Settlement>,
    ) -> Self {
        Self { message, queue, redelivered, delivery_count, settlement }
    }

    /// Done: the broker forgets the message.
    ///
    /// Succeeds, too, if the connection that brought the delivery is gone: then the broker redelivers it, and
    /// whoever receives it finds the work done.
    pub async fn ack(self) -> Result<(), BrokerError> {
        self.settlement.ack().await
    }

    /// Not done. Succeeds if the connection is gone, as [`Delivery::ack`] does.
    pub async fn nack(self, requeue: Requeue) -> Result<(), BrokerError> {
        self.settlement.nack(requeue).await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message_id", &self.message.message_id)
            .field("queue", &self.queue)
            .field("redelivered", &self.redelivered)
            .field("delivery_count", &self.delivery_count)
            .finish_non_exhaustive()
    }
}
