//! Subscriptions to embedded queues, and the settling of what they hand out.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Shared;
use super::queues::{ConsumerId, HandedOut, Next, Ticket};
use crate::broker::{BrokerError, BrokerErrorKind, Consumer, Delivery, QueueName, Requeue, Settlement};

/// A subscription; dropping it returns what it holds.
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    queue: QueueName,
    id: ConsumerId,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, queue: QueueName, id: ConsumerId) -> Self {
        Self { shared, queue, id }
    }

    fn try_next(&self) -> Next {
        let mut state = self.shared.lock();
        if state.closed {
            return Next::Ended;
        }
        state.queues.next(&self.queue, self.id, Instant::now())
    }

    fn delivery(&self, handed_out: HandedOut) -> Delivery {
        let HandedOut { message, delivery_count, ticket } = handed_out;
        let settlement = EmbeddedSettlement { shared: Arc::clone(&self.shared), ticket: Some(ticket) };
        Delivery::new(message, self.queue.clone(), delivery_count > 0, delivery_count, Box::new(settlement))
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Listens before it looks: a change in between is not missed.
            changed.as_mut().enable();
            match self.try_next() {
                Next::Message(handed_out) => return Ok(Some(self.delivery(*handed_out))),
                Next::Ended => return Ok(None),
                Next::QueueGone => {
                    return Err(BrokerError::new(
                        BrokerErrorKind::NoSuchQueue,
                        "consume",
                        self.queue.as_str(),
                    ));
                }
                Next::Wait(None) => changed.await,
                Next::Wait(Some(due)) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.shared.lock().queues.cancel(&self.queue, self.id, Instant::now());
        self.shared.changed.notify_waiters();
        Ok(())
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.shared.lock().queues.unsubscribe(&self.queue, self.id, Instant::now());
        self.shared.changed.notify_waiters();
    }
}

/// The right to settle one hand-over; dropped unused, it requeues.
struct EmbeddedSettlement {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
}

impl EmbeddedSettlement {
    fn nack_now(&mut self, requeue: Requeue) {
        let Some(ticket) = self.ticket.take() else { return };
        let known = self.shared.lock().queues.nack(&ticket, requeue, Instant::now());
        note_stale(known, &ticket);
        self.shared.changed.notify_waiters();
    }
}

#[async_trait]
impl Settlement for EmbeddedSettlement {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        if let Some(ticket) = self.ticket.take() {
            let known = self.shared.lock().queues.ack(&ticket);
            note_stale(known, &ticket);
            // A consumer at its prefetch limit may go on.
            self.shared.changed.notify_waiters();
        }
        Ok(())
    }

    async fn nack(mut self: Box<Self>, requeue: Requeue) -> Result<(), BrokerError> {
        self.nack_now(requeue);
        Ok(())
    }
}

impl Drop for EmbeddedSettlement {
    fn drop(&mut self) {
        self.nack_now(Requeue::Yes);
    }
}

fn note_stale(known: bool, ticket: &Ticket) {
    if !known {
        tracing::debug!(queue = %ticket.queue, "settled a delivery whose consumer is gone; it is redelivered");
    }
}
