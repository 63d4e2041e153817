//! The queue: one port, an in-process and a RabbitMQ implementation.
//!
//! Both implementations pass the suite in `tests/broker/conformance` and mean the same by every word:
//!
//! * Delivery is **at least once**. A delivery that is not settled comes back, flagged
//!   [`Delivery::redelivered`], when its consumer goes away: receivers must be idempotent.
//! * A publish returns when the broker has taken responsibility for the message (confirm), or fails with
//!   [`BrokerErrorKind::Unroutable`] when no queue of that name exists. It may arrive twice.
//! * Losing the connection is not an error of [`Broker::publish`] or [`Consumer::next`]: they wait for the
//!   broker to return, and [`Broker::state`] says so meanwhile.
//!
//! What is deliberately absent: exchanges and bindings (a message goes to one queue, by name), priorities,
//! purging, and any knowledge of what a body means.

mod delivery;
pub mod embedded;
mod error;
pub mod lanes;
mod message;
mod queue_name;
pub mod rabbitmq;
pub mod topology;

use async_trait::async_trait;
use jiff::Timestamp;

pub use delivery::{Delivery, Requeue};
pub use error::{BrokerError, BrokerErrorKind};
pub use message::{DeadReason, Message};
pub use queue_name::{InvalidQueueName, QueueName};
pub use topology::Topology;

pub(crate) use delivery::Settlement;

/// Where messages wait between the programs.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Declares every queue of the topology. Harmless when they exist already.
    ///
    /// # Errors
    /// [`BrokerErrorKind::Declare`] if a queue exists with other arguments; the error names it and the remedy.
    async fn declare(&self) -> Result<(), BrokerError>;

    /// Publishes `message` to `queue` and returns once the broker has confirmed it.
    ///
    /// Call it from many tasks at once: confirms are pipelined over a bounded window, and callers beyond the
    /// window wait. While the broker is away or blocked, or keeps refusing the message because the queue is full or has
    /// lost its majority, the call waits too (see [`Broker::state`]); dropping the future gives up waiting, the message
    /// may or may not have arrived.
    ///
    /// # Errors
    /// [`BrokerErrorKind::Unroutable`] if there is no such queue, [`BrokerErrorKind::Closed`] after
    /// [`Broker::close`].
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError>;

    /// Starts consuming `queue`, holding at most `prefetch` (at least 1) unsettled deliveries at a time.
    ///
    /// # Errors
    /// [`BrokerErrorKind::NoSuchQueue`] if there is none of that name.
    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError>;

    /// How many messages wait in `queue` and how many consumers it has. Answers or fails promptly.
    ///
    /// # Errors
    /// [`BrokerErrorKind::NoSuchQueue`] if there is none of that name, [`BrokerErrorKind::Unreachable`] while
    /// the broker is away.
    async fn depth(&self, queue: &QueueName) -> Result<QueueDepth, BrokerError>;

    /// Opens (or finds again) the mailbox `name`: a queue for the outcomes of one run or the replies of one
    /// search. It survives a restart of the broker and expires when nobody has used it for a while.
    async fn open_mailbox(&self, name: &str) -> Result<QueueName, BrokerError>;

    /// Removes a mailbox and what is in it. A mailbox that is gone already is fine.
    async fn close_mailbox(&self, mailbox: &QueueName) -> Result<(), BrokerError>;

    /// Ends every consumer and connection. Pending publishes fail with [`BrokerErrorKind::Closed`].
    async fn close(&self);

    /// Whether the queue lives in this process, so that no other process can take part.
    fn is_local(&self) -> bool;

    /// Where the broker is, without credentials: for logs and messages.
    fn describe(&self) -> String;

    /// What the connection is doing now.
    fn state(&self) -> BrokerState;
}

/// One subscription to one queue. Dropping it returns its unsettled deliveries to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery, first in first out; `None` after [`Consumer::cancel`] or [`Broker::close`].
    ///
    /// Waits through reconnects. Cancel safe: a call that is dropped loses no delivery.
    ///
    /// # Errors
    /// [`BrokerErrorKind::NoSuchQueue`] if the queue was removed.
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError>;

    /// Stops taking new deliveries and returns those not yet handed out by [`Consumer::next`]. Deliveries in
    /// hand can still be settled, as long as this consumer is not dropped.
    async fn cancel(&mut self) -> Result<(), BrokerError>;
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages waiting; those in a consumer's hands are not counted.
    pub messages: u64,
    /// Consumers subscribed. RabbitMQ also counts one that was cancelled while it holds unsettled deliveries.
    pub consumers: u32,
}

/// What the connection to the broker is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerState {
    /// Ready.
    Connected,
    /// Away: trying to connect again, without end.
    Connecting {
        /// When the connection was lost.
        since: Timestamp,
        /// Why the latest attempt failed, in one line without credentials.
        last_error: Option<String>,
    },
    /// Connected, but the broker takes no messages now: it is short of memory or disk, or a queue has lost the
    /// majority of its replicas. Publishes wait.
    Blocked {
        /// What the broker said, or what is missing.
        reason: String,
    },
    /// [`Broker::close`] was called.
    Closed,
}

impl BrokerState {
    /// Whether publishes and deliveries can make progress now.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Connected)
    }
}
