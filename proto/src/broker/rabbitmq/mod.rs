//! RabbitMQ 3.10 and later. The only folder that names the client library.
//!
//! ```text
//! publish ─► publisher ─► sender ─┐                     ┌─ consumer ◄─ next
//!            (window)     (task)  ├─ publishing link    │
//!                                 │  consuming link ────┤
//!                                 │  (wire, sessions)   └─ declare, depth, mailboxes
//! ```
//!
//! Two connections, because a broker short of memory stops reading from connections that publish, and acks must
//! still get through. Each is a `Link` that connects again by itself; publishes and subscriptions start over on the
//! new `Session`.

mod address;
mod backoff;
mod consumer;
mod fault;
mod in_flight;
mod link;
mod management;
mod options;
mod properties;
mod publisher;
mod queues;
mod request;
mod returns;
mod sender;
mod wire;

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use self::address::Address;
use self::consumer::RabbitConsumer;
use self::link::{Link, LinkOptions, Session};
use self::publisher::Publisher;
use self::request::PublisherOptions;
use super::topology::QueueSpec;
use super::{
    Broker, BrokerError, BrokerErrorKind, BrokerState, Consumer, Message, QueueDepth, QueueName, Topology,
};

pub use self::management::{Management, PolicyLimit};
pub use self::options::RabbitMqOptions;

/// A [`Broker`] that is RabbitMQ.
pub struct RabbitMq {
    shared: Arc<Shared>,
    publishing: Arc<Link>,
    publisher: Publisher,
}

/// What subscriptions need of the broker.
struct Shared {
    consuming: Link,
    topology: Topology,
    operation_timeout: Duration,
    /// Mailboxes opened here: should one expire while the connection is away, it is opened again.
    mailboxes: Mutex<HashSet<QueueName>>,
}

impl RabbitMq {
    /// Connects. Declares nothing.
    ///
    /// # Errors
    /// `InvalidUri`, `Refused` (login or virtual host) or `Unreachable`, each naming the address without
    /// credentials. Once connected, the connection is kept up without further errors.
    pub async fn connect(options: RabbitMqOptions) -> Result<Self, BrokerError> {
        let addresses = options
            .uris
            .iter()
            .map(|uri| Address::parse(uri, options.heartbeat))
            .collect::<Result<Arc<[Address]>, _>>()?;
        let link_options = |purpose: &str| LinkOptions {
            addresses: Arc::clone(&addresses),
            name: format!("{} ({purpose})", options.connection_name),
            connect_timeout: options.connect_timeout,
            patience: options.patience,
            max_backoff: options.max_backoff,
        };
        let consuming = Link::open(link_options("consuming")).await?;
        let publishing = Arc::new(Link::open(link_options("publishing")).await?);
        let publisher = Publisher::start(
            Arc::clone(&publishing),
            PublisherOptions {
                window: options.window,
                window_bytes: options.window_bytes,
                confirm_timeout: options.confirm_timeout,
                operation_timeout: options.operation_timeout,
            },
        );
        let shared = Shared {
            consuming,
            topology: options.topology,
            operation_timeout: options.operation_timeout,
            mailboxes: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), publishing, publisher })
    }

    /// Runs `request` on the consuming connection, and on the next one if that is lost meanwhile.
    async fn request<T, F>(
        &self,
        (operation, object): (&'static str, &str),
        request: impl Fn(Session) -> F + Send + Sync,
    ) -> Result<T, BrokerError>
    where
        F: Future<Output = lapin::Result<T>> + Send,
        T: Send,
    {
        let link = &self.shared.consuming;
        let deadline = Instant::now() + self.shared.operation_timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        loop {
            let session = link.session(left(), operation).await?;
            match link.request(&session, left(), (operation, object), request(session.clone())).await {
                Err(error) if error.kind() == BrokerErrorKind::Unreachable && Instant::now() < deadline => {
                    // The supervisor sees the loss a moment later than we did.
                    let _ = timeout(left(), link.ended(&session)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn declare_queue(&self, operation: &'static str, queue: QueueSpec) -> Result<(), BrokerError> {
        let object = format!("queue {}", queue.name);
        let queue = Arc::new(queue);
        self.request((operation, &object), |session| {
            let queue = Arc::clone(&queue);
            async move { queues::declare(&session, &queue).await }
        })
        .await
    }
}

impl Shared {
    /// The traits of a queue that we may declare again.
    fn known_queue(&self, queue: &QueueName) -> Option<QueueSpec> {
        if self.mailboxes().contains(queue) {
            return Some(self.topology.mailbox_spec(queue));
        }
        self.topology.queues().into_iter().find(|spec| spec.name == *queue)
    }

    fn mailboxes(&self) -> std::sync::MutexGuard<'_, HashSet<QueueName>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn declare(&self) -> Result<(), BrokerError> {
        for queue in self.shared.topology.queues() {
            self.declare_queue("declare", queue).await?;
        }
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        self.publisher.publish(queue, message).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer = RabbitConsumer::start(Arc::clone(&self.shared), queue.clone(), prefetch).await?;
        Ok(Box::new(consumer))
    }

    async fn depth(&self, queue: &QueueName) -> Result<QueueDepth, BrokerError> {
        // For displays and metrics, which do not wait for a broker's return.
        let link = &self.shared.consuming;
        let session = link.session(Duration::ZERO, "look at").await?;
        let object = format!("queue {queue}");
        let looking = queues::depth(&session, queue);
        link.request(&session, self.shared.operation_timeout, ("look at", &object), looking).await
    }

    async fn open_mailbox(&self, name: &str) -> Result<QueueName, BrokerError> {
        let mailbox =
            self.shared.topology.mailbox(name).map_err(|error| BrokerError::mailbox(name, error))?;
        self.declare_queue("open mailbox", self.shared.topology.mailbox_spec(&mailbox)).await?;
        self.shared.mailboxes().insert(mailbox.clone());
        Ok(mailbox)
    }

    async fn close_mailbox(&self, mailbox: &QueueName) -> Result<(), BrokerError> {
        self.shared.mailboxes().remove(mailbox);
        let object = format!("queue {mailbox}");
        self.request(("remove", &object), |session| {
            let mailbox = mailbox.clone();
            async move { queues::delete(&session, &mailbox).await }
        })
        .await
    }

    async fn close(&self) {
        // The publisher first stops taking messages, then its link ends what is on its way.
        tokio::join!(self.publishing.close(), self.shared.consuming.close());
        self.publisher.close().await;
    }

    fn is_local(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        self.publishing.describe()
    }

    fn state(&self) -> BrokerState {
        let (publishing, consuming) = (self.publishing.state(), self.shared.consuming.state());
        match (consuming, publishing) {
            (state @ (BrokerState::Closed | BrokerState::Connecting { .. }), _)
            | (
                _,
                state @ (BrokerState::Closed | BrokerState::Connecting { .. } | BrokerState::Blocked { .. }),
            ) => state,
            (state, BrokerState::Connected) => match self.publisher.stalled() {
                Some(reason) => BrokerState::Blocked { reason },
                None => state,
            },
        }
    }
}
