//! Subscriptions that outlive connections.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, Channel};
use scopeguard::ScopeGuard;
use tokio::time::sleep;

use super::link::Session;
use super::properties::{delivery_count, message_from};
use super::{Shared, queues};
use crate::broker::{BrokerError, BrokerErrorKind, Consumer, Delivery, QueueName, Requeue, Settlement};
use crate::chain;

/// The pause before subscribing again after the broker ended a subscription but not the connection.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// A subscription on a channel of its own: when it goes, the broker takes back what it held.
pub(super) struct RabbitConsumer {
    wanted: Wanted,
    subscription: Option<Subscription>,
    /// Subscribes again. Kept here, because whoever drops `next` to look after something else would begin anew every time.
    again: Option<BoxFuture<'static, Result<Subscription, BrokerError>>>,
    cancelled: bool,
}

struct Subscription {
    session: Session,
    channel: Channel,
    deliveries: lapin::Consumer,
}

/// What to subscribe to.
#[derive(Clone)]
struct Wanted {
    shared: Arc<Shared>,
    queue: QueueName,
    prefetch: u16,
}

impl Wanted {
    async fn subscribe(&self, session: &Session) -> Result<Subscription, BrokerError> {
        let subscribing = async {
            // A broker that is asked and then left alone would serve the request when it can, and deliver to nobody from then
            // on: until it has answered, whoever drops this future closes the channel.
            let channel = scopeguard::guard(session.connection().create_channel().await?, give_up);
            channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
            let queue = ShortString::from(self.queue.as_str());
            let options = BasicConsumeOptions::default();
            let deliveries =
                channel.basic_consume(queue, ShortString::default(), options, FieldTable::default()).await?;
            Ok(Subscription {
                session: session.clone(),
                channel: ScopeGuard::into_inner(channel),
                deliveries,
            })
        };
        self.request(session, "consume", subscribing).await
    }

    async fn request<T>(
        &self,
        session: &Session,
        operation: &'static str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let object = format!("queue {}", self.queue);
        self.shared
            .consuming
            .request(session, self.shared.operation_timeout, (operation, &object), request)
            .await
    }

    /// Subscribes again however long the broker is away. Only a queue that is really gone is an error.
    async fn resubscribe(self) -> Result<Subscription, BrokerError> {
        loop {
            let session = self.shared.consuming.session(Duration::MAX, "consume").await?;
            let error = match self.subscribe(&session).await {
                Ok(subscription) => return Ok(subscription),
                Err(error) => error,
            };
            if error.kind() == BrokerErrorKind::NoSuchQueue {
                let Some(spec) = self.shared.known_queue(&self.queue) else { return Err(error) };
                tracing::warn!(queue = %self.queue, "the queue was gone and is declared again");
                if let Err(error) = self.request(&session, "declare", queues::declare(&session, &spec)).await
                {
                    tracing::warn!(queue = %self.queue, error = %chain(&error), "cannot declare the queue yet");
                }
            } else {
                tracing::warn!(queue = %self.queue, error = %chain(&error), "cannot consume yet");
            }
            sleep(RESUBSCRIBE_PAUSE).await;
        }
    }
}

/// Tells the broker that nobody waits for what was asked of it on this channel.
fn give_up(channel: Channel) {
    // The first poll queues the command; what comes of it nobody needs to know.
    let _ = channel.close(REPLY_SUCCESS, "given up".into()).now_or_never();
}

impl RabbitConsumer {
    /// Subscribes for the first time, so that a missing queue is known at once.
    pub(super) async fn start(
        shared: Arc<Shared>,
        queue: QueueName,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let wanted = Wanted { shared, queue, prefetch: prefetch.max(1) };
        let session = wanted.shared.consuming.session(wanted.shared.operation_timeout, "consume").await?;
        let subscription = Some(wanted.subscribe(&session).await?);
        Ok(Self { wanted, subscription, again: None, cancelled: false })
    }

    fn delivery(&self, delivery: lapin::message::Delivery, session: Session) -> Delivery {
        let message = message_from(delivery.data, &delivery.properties);
        let count = delivery_count(&delivery.properties);
        let settlement = RabbitSettlement {
            shared: Arc::clone(&self.wanted.shared),
            session,
            acker: delivery.acker,
            queue: self.wanted.queue.clone(),
            settled: false,
        };
        Delivery::new(message, self.wanted.queue.clone(), delivery.redelivered, count, Box::new(settlement))
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        let closing = self.wanted.shared.consuming.closing().clone();
        loop {
            if self.cancelled || closing.is_cancelled() {
                return Ok(None);
            }
            let Some(subscription) = &mut self.subscription else {
                let again = self.again.get_or_insert_with(|| self.wanted.clone().resubscribe().boxed());
                let again = tokio::select! {
                    again = again => again,
                    () = closing.cancelled() => return Ok(None),
                };
                self.again = None;
                match again {
                    Err(error) if error.kind() == BrokerErrorKind::Closed => return Ok(None),
                    again => self.subscription = Some(again?),
                }
                tracing::debug!(queue = %self.wanted.queue, "consuming again");
                continue;
            };
            let delivery = tokio::select! {
                delivery = subscription.deliveries.next() => delivery,
                // The client library tells us, too, but not in every race.
                () = self.wanted.shared.consuming.ended(&subscription.session) => {
                    self.subscription = None;
                    continue;
                }
                () = closing.cancelled() => return Ok(None),
            };
            let session = subscription.session.clone();
            match delivery {
                Some(Ok(delivery)) => return Ok(Some(self.delivery(delivery, session))),
                Some(Err(error)) => {
                    tracing::debug!(queue = %self.wanted.queue, error = %error, "the subscription was lost");
                    self.subscription = None;
                }
                None => {
                    tracing::debug!(queue = %self.wanted.queue, "the broker ended the subscription");
                    self.subscription = None;
                    sleep(RESUBSCRIBE_PAUSE).await;
                }
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        // The broker does not answer a second cancellation of the same subscription.
        if std::mem::replace(&mut self.cancelled, true) {
            return Ok(());
        }
        self.again = None;
        let Some(Subscription { session, channel, deliveries }) = &mut self.subscription else {
            return Ok(());
        };
        let cancelling = async {
            channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await?;
            while let Some(Ok(delivery)) = deliveries.next().await {
                delivery.acker.nack(requeue(Requeue::Yes)).await?;
            }
            Ok(())
        };
        let what = ("cancel the consumer of", &*format!("queue {}", self.wanted.queue));
        let shared = &self.wanted.shared;
        let limit = shared.operation_timeout;
        // The channel stays open for what is in hand.
        let cancelled = shared.consuming.request(session, limit, what, cancelling).await;
        match cancelled {
            // Without its connection the subscription is cancelled already.
            Err(error) if error.kind() == BrokerErrorKind::Unreachable => Ok(()),
            cancelled => cancelled,
        }
    }
}

/// The right to settle one delivery, bound to the channel that brought it.
struct RabbitSettlement {
    shared: Arc<Shared>,
    session: Session,
    acker: Acker,
    queue: QueueName,
    settled: bool,
}

impl RabbitSettlement {
    /// Waits for the settling to be sent. An end of the connection is an end of the wait: the client library drops
    /// a command that comes while its loop is ending, and the broker redelivers in any case.
    async fn settle(&mut self, settling: impl Future<Output = lapin::Result<bool>>) {
        self.settled = true;
        let settled = tokio::select! {
            settled = settling => settled,
            () = self.shared.consuming.ended(&self.session) => Ok(false),
        };
        match settled {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(queue = %self.queue, "settled a delivery of a lost connection; it is redelivered");
            }
            Err(error) => {
                tracing::debug!(queue = %self.queue, error = %error, "lost the connection while settling; the delivery comes again");
            }
        }
    }
}

#[async_trait]
impl Settlement for RabbitSettlement {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        let acker = self.acker.clone();
        self.settle(acker.ack(BasicAckOptions::default())).await;
        Ok(())
    }

    async fn nack(mut self: Box<Self>, how: Requeue) -> Result<(), BrokerError> {
        let acker = self.acker.clone();
        self.settle(acker.nack(requeue(how))).await;
        Ok(())
    }
}

impl Drop for RabbitSettlement {
    fn drop(&mut self) {
        if !self.settled && self.acker.usable() {
            // The first poll queues the command; what comes of it nobody needs to know.
            let _ = self.acker.nack(requeue(Requeue::Yes)).now_or_never();
        }
    }
}

fn requeue(how: Requeue) -> BasicNackOptions {
    BasicNackOptions { requeue: how == Requeue::Yes, ..BasicNackOptions::default() }
}
