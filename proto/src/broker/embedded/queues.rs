//! The queues of the embedded broker as a plain state machine: time comes in as an argument, nothing waits.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::broker::topology::QueueSpec;
use crate::broker::{DeadReason, Message, QueueDepth, QueueName, Requeue};

/// The broker's own words for giving a message up, as RabbitMQ has them.
const REJECTED: &str = "rejected";
const DELIVERY_LIMIT: &str = "delivery_limit";

/// One subscription, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConsumerId(u64);

/// Which hand-over of which message: a place in a queue and the consumer that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) queue: QueueName,
    position: u64,
    consumer: ConsumerId,
}

/// A message handed out.
#[derive(Debug)]
pub(super) struct HandedOut {
    pub(super) message: Message,
    pub(super) delivery_count: u64,
    pub(super) ticket: Ticket,
}

/// What a consumer gets when it asks.
#[derive(Debug)]
pub(super) enum Next {
    Message(Box<HandedOut>),
    /// Nothing now. Ask again after a change, or at the latest at this time.
    Wait(Option<Instant>),
    /// This consumer was cancelled.
    Ended,
    /// Its queue was removed.
    QueueGone,
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: HashMap<QueueName, Queue>,
    positions: u64,
    consumers: u64,
}

#[derive(Debug)]
struct Queue {
    spec: QueueSpec,
    ready: BTreeMap<u64, Stored>,
    in_hand: HashMap<u64, (ConsumerId, Stored)>,
    subscriptions: HashMap<ConsumerId, Subscription>,
    unused_since: Instant,
}

#[derive(Debug)]
struct Subscription {
    prefetch: usize,
    in_hand: usize,
    cancelled: bool,
}

#[derive(Debug)]
struct Stored {
    message: Message,
    delivery_count: u64,
    expires_at: Option<Instant>,
}

/// There is no such queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoQueue;

impl Queues {
    /// Creates the queue. `Err` if it exists with other traits.
    pub(super) fn declare(&mut self, spec: QueueSpec, now: Instant) -> Result<(), QueueSpec> {
        self.advance(now);
        if let Some(queue) = self.queues.get_mut(&spec.name) {
            if queue.spec != spec {
                return Err(spec);
            }
            queue.unused_since = now;
            return Ok(());
        }
        let queue = Queue {
            ready: BTreeMap::new(),
            in_hand: HashMap::new(),
            subscriptions: HashMap::new(),
            unused_since: now,
            spec,
        };
        self.queues.insert(queue.spec.name.clone(), queue);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &QueueName) {
        self.queues.remove(name);
    }

    pub(super) fn publish(
        &mut self,
        name: &QueueName,
        message: Message,
        now: Instant,
    ) -> Result<(), NoQueue> {
        self.advance(now);
        self.append(name, message, now)
    }

    pub(super) fn depth(&mut self, name: &QueueName, now: Instant) -> Result<QueueDepth, NoQueue> {
        self.advance(now);
        let queue = self.queues.get(name).ok_or(NoQueue)?;
        let consumers = queue.subscriptions.values().filter(|subscription| !subscription.cancelled).count();
        Ok(QueueDepth { messages: queue.ready.len() as u64, consumers: consumers as u32 })
    }

    pub(super) fn subscribe(
        &mut self,
        name: &QueueName,
        prefetch: u16,
        now: Instant,
    ) -> Result<ConsumerId, NoQueue> {
        self.advance(now);
        let queue = self.queues.get_mut(name).ok_or(NoQueue)?;
        self.consumers += 1;
        let consumer = ConsumerId(self.consumers);
        let prefetch = usize::from(prefetch.max(1));
        queue.subscriptions.insert(consumer, Subscription { prefetch, in_hand: 0, cancelled: false });
        Ok(consumer)
    }

    /// No new deliveries; those in hand stay with the consumer.
    pub(super) fn cancel(&mut self, name: &QueueName, consumer: ConsumerId, now: Instant) {
        if let Some(queue) = self.queues.get_mut(name) {
            if let Some(subscription) = queue.subscriptions.get_mut(&consumer) {
                subscription.cancelled = true;
            }
            queue.unused_since = now;
        }
    }

    /// The consumer is gone: what it held goes back to its place.
    pub(super) fn unsubscribe(&mut self, name: &QueueName, consumer: ConsumerId, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        queue.subscriptions.remove(&consumer);
        queue.unused_since = now;
        let held: Vec<u64> = queue
            .in_hand
            .iter()
            .filter(|(_, (holder, _))| *holder == consumer)
            .map(|(place, _)| *place)
            .collect();
        for position in held {
            let ticket = Ticket { queue: name.clone(), position, consumer };
            self.nack(&ticket, Requeue::Yes, now);
        }
    }

    pub(super) fn next(&mut self, name: &QueueName, consumer: ConsumerId, now: Instant) -> Next {
        self.advance(now);
        let due = self.next_due();
        let Some(queue) = self.queues.get_mut(name) else { return Next::QueueGone };
        // Without a subscription the queue was removed and declared again behind the consumer's back.
        let Some(subscription) = queue.subscriptions.get_mut(&consumer) else { return Next::QueueGone };
        if subscription.cancelled {
            return Next::Ended;
        }
        if subscription.in_hand >= subscription.prefetch {
            return Next::Wait(due);
        }
        let Some((position, stored)) = queue.ready.pop_first() else { return Next::Wait(due) };
        subscription.in_hand += 1;
        let handed_out = HandedOut {
            message: stored.message.clone(),
            delivery_count: stored.delivery_count,
            ticket: Ticket { queue: name.clone(), position, consumer },
        };
        queue.in_hand.insert(position, (consumer, stored));
        Next::Message(Box::new(handed_out))
    }

    /// `false` if the delivery is stale: its consumer is gone and the message was requeued.
    pub(super) fn ack(&mut self, ticket: &Ticket) -> bool {
        self.take_back(ticket).is_some()
    }

    /// `false` if the delivery is stale.
    pub(super) fn nack(&mut self, ticket: &Ticket, requeue: Requeue, now: Instant) -> bool {
        let Some(mut stored) = self.take_back(ticket) else { return false };
        if requeue == Requeue::No {
            self.dead_letter(&ticket.queue, stored.message, Some(REJECTED), now);
            return true;
        }
        let Some(queue) = self.queues.get_mut(&ticket.queue) else { return false };
        stored.delivery_count += 1;
        if queue.spec.delivery_limit.is_some_and(|limit| stored.delivery_count > u64::from(limit)) {
            self.dead_letter(&ticket.queue, stored.message, Some(DELIVERY_LIMIT), now);
        } else {
            queue.ready.insert(ticket.position, stored);
        }
        true
    }

    fn take_back(&mut self, ticket: &Ticket) -> Option<Stored> {
        let queue = self.queues.get_mut(&ticket.queue)?;
        if queue.in_hand.get(&ticket.position).is_none_or(|(holder, _)| *holder != ticket.consumer) {
            return None;
        }
        if let Some(subscription) = queue.subscriptions.get_mut(&ticket.consumer) {
            subscription.in_hand -= 1;
        }
        queue.in_hand.remove(&ticket.position).map(|(_, stored)| stored)
    }

    fn append(&mut self, name: &QueueName, message: Message, now: Instant) -> Result<(), NoQueue> {
        let queue = self.queues.get_mut(name).ok_or(NoQueue)?;
        self.positions += 1;
        let expires_at = queue.spec.message_ttl.map(|ttl| now + ttl);
        queue.ready.insert(self.positions, Stored { message, delivery_count: 0, expires_at });
        if queue.spec.max_length.is_some_and(|limit| queue.ready.len() > limit as usize) {
            queue.ready.pop_first();
        }
        Ok(())
    }

    /// Moves a message to where `from` sends what it gives up. `reason` is `None` for a mere time-out.
    fn dead_letter(&mut self, from: &QueueName, mut message: Message, reason: Option<&str>, now: Instant) {
        let target = self.queues.get(from).and_then(|queue| queue.spec.dead_letter_to.clone());
        let Some(target) = target else { return };
        if let Some(code) = reason {
            message.dead = Some(DeadReason {
                code: code.to_owned(),
                message: String::new(),
                first_failed_at: message.first_failed_at,
                failed_at: Some(Timestamp::now()),
                queue: Some(from.clone()),
            });
        }
        if self.append(&target, message, now).is_err() {
            tracing::warn!(queue = %from, target = %target, "dead letter dropped, its queue does not exist");
        }
    }

    /// Lets time pass: messages time out of their queue, unused mailboxes vanish.
    fn advance(&mut self, now: Instant) {
        self.queues.retain(|_, queue| queue.expires_at().is_none_or(|expires_at| expires_at > now));
        let timed: Vec<QueueName> =
            self.queues.values().filter(|queue| queue.spec.message_ttl.is_some()).map(Queue::name).collect();
        for name in timed {
            while let Some(stored) = self.queues.get_mut(&name).and_then(|queue| queue.pop_expired(now)) {
                self.dead_letter(&name, stored.message, None, now);
            }
        }
    }

    /// When the next message times out of its queue.
    fn next_due(&self) -> Option<Instant> {
        self.queues.values().filter_map(|queue| queue.ready.values().next()?.expires_at).min()
    }
}

impl Queue {
    fn name(&self) -> QueueName {
        self.spec.name.clone()
    }

    fn expires_at(&self) -> Option<Instant> {
        let expires = self.spec.expires?;
        let used = self.subscriptions.values().any(|subscription| !subscription.cancelled);
        (!used).then(|| self.unused_since + expires)
    }

    fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        let head = self.ready.first_entry()?;
        head.get().expires_at.is_some_and(|expires_at| expires_at <= now).then(|| head.remove())
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
