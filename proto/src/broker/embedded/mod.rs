//! The queue inside one process: what RabbitMQ means by every operation, without a broker and without durability.
//!
//! No task runs in the background. Delays are settled whenever somebody looks, and a waiting consumer sleeps
//! until the next one is due.

mod consumer;
mod queues;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::consumer::EmbeddedConsumer;
use self::queues::{NoQueue, Queues};
use super::topology::QueueSpec;
use super::{
    Broker, BrokerError, BrokerErrorKind, BrokerState, Consumer, Message, QueueDepth, QueueName, Topology,
};

/// A [`Broker`] in this process. Clones share the queues.
#[derive(Debug, Clone)]
pub struct EmbeddedBroker {
    topology: Arc<Topology>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes every waiting consumer after any change.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    queues: Queues,
    closed: bool,
}

impl EmbeddedBroker {
    /// No queue exists before [`Broker::declare`], as with any broker.
    pub fn new(topology: Topology) -> Self {
        Self { topology: Arc::new(topology), shared: Arc::default() }
    }

    /// Runs `change` on the queues and wakes whoever waits.
    fn change<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut Queues) -> T,
    ) -> Result<T, BrokerError> {
        let changed = {
            let mut state = self.shared.lock();
            if state.closed {
                return Err(BrokerError::new(BrokerErrorKind::Closed, operation, self.describe()));
            }
            change(&mut state.queues)
        };
        self.shared.changed.notify_waiters();
        Ok(changed)
    }

    fn declare_queue(&self, spec: QueueSpec) -> Result<(), BrokerError> {
        self.change("declare", |queues| queues.declare(spec, Instant::now()))?.map_err(|spec| {
            BrokerError::new(BrokerErrorKind::Declare, "declare", format!("queue {}", spec.name))
                .with_remedy("use one topology in the whole process")
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock can only come from the allocator; the queues stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn declare(&self) -> Result<(), BrokerError> {
        self.topology.queues().into_iter().try_for_each(|spec| self.declare_queue(spec))
    }

    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        self.change("publish to", |queues| queues.publish(queue, message, Instant::now()))?
            .map_err(|NoQueue| BrokerError::new(BrokerErrorKind::Unroutable, "publish to", queue.as_str()))
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        let id = self
            .change("consume", |queues| queues.subscribe(queue, prefetch, Instant::now()))?
            .map_err(|NoQueue| BrokerError::new(BrokerErrorKind::NoSuchQueue, "consume", queue.as_str()))?;
        Ok(Box::new(EmbeddedConsumer::new(Arc::clone(&self.shared), queue.clone(), id)))
    }

    async fn depth(&self, queue: &QueueName) -> Result<QueueDepth, BrokerError> {
        self.change("look at", |queues| queues.depth(queue, Instant::now()))?
            .map_err(|NoQueue| BrokerError::new(BrokerErrorKind::NoSuchQueue, "look at", queue.as_str()))
    }

    async fn open_mailbox(&self, name: &str) -> Result<QueueName, BrokerError> {
        let mailbox = self.topology.mailbox(name).map_err(|error| BrokerError::mailbox(name, error))?;
        self.declare_queue(self.topology.mailbox_spec(&mailbox))?;
        Ok(mailbox)
    }

    async fn close_mailbox(&self, mailbox: &QueueName) -> Result<(), BrokerError> {
        self.change("remove", |queues| queues.remove(mailbox))
    }

    async fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_waiters();
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "the queue in this process".to_owned()
    }

    fn state(&self) -> BrokerState {
        if self.shared.lock().closed { BrokerState::Closed } else { BrokerState::Connected }
    }
}
