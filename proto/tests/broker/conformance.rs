//! The suite that every [`captionfleet_proto::broker`] implementation passes, one test per promise of the port.
//!
//! ```ignore
//! conformance!(make);
//! ```
//!
//! turns each case into a `#[tokio::test]`; `make` is an `async fn(Topology) -> Arc<dyn Broker>` that connects
//! without declaring anything. Every case has its own queue prefix, so the suite runs in parallel and on a broker
//! that others use.

pub mod failure;
pub mod flow;
pub mod mailbox;
pub mod settling;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_proto::broker::{Broker, Consumer, Delivery, Message, QueueDepth, QueueName, Topology};
use captionfleet_proto::job::Lane;

use crate::support::{DELIVERY_LIMIT, MAILBOX_EXPIRY, RETRY_DELAY, topology};

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long we watch that something does not happen.
const A_WHILE: Duration = Duration::from_millis(300);
/// A broker under test and its queues.
pub struct Subject {
    /// The broker, declared.
    pub broker: Arc<dyn Broker>,
    /// Its queues.
    pub topology: Topology,
    /// The queue that most cases work on.
    pub lane: QueueName,
}

impl Subject {
    /// Makes and declares the broker of one case.
    pub async fn new<F: Future<Output = Arc<dyn Broker>>>(case: &str, make: impl Fn(Topology) -> F) -> Self {
        let topology = topology(case);
        let broker = make(topology.clone()).await;
        broker.declare().await.expect("the topology can be declared");
        let lane = topology.lane_queue(Lane::Bulk);
        Self { broker, topology, lane }
    }

    /// Publishes small messages to the lane, named as given.
    async fn publish(&self, ids: &[&str]) {
        for id in ids {
            self.publish_to(&self.lane, Message::new(*id, format!("body of {id}"))).await;
        }
    }

    async fn publish_to(&self, queue: &QueueName, message: Message) {
        self.broker.publish(queue, message).await.expect("the message is confirmed");
    }

    async fn consume(&self, prefetch: u16) -> Box<dyn Consumer> {
        self.consume_from(&self.lane, prefetch).await
    }

    async fn consume_from(&self, queue: &QueueName, prefetch: u16) -> Box<dyn Consumer> {
        self.broker.consume(queue, prefetch).await.expect("the queue can be consumed")
    }

    /// Waits until the queue is as described.
    async fn wait_for_depth(&self, queue: &QueueName, expected: QueueDepth) {
        self.wait_until(queue, &format!("{expected:?}"), |depth| depth == expected).await;
    }

    /// Waits until so many messages wait in the queue, whoever consumes.
    async fn wait_for_messages(&self, queue: &QueueName, messages: u64) {
        self.wait_until(queue, &format!("{messages} messages"), |depth| depth.messages == messages).await;
    }

    async fn wait_until(&self, queue: &QueueName, expected: &str, met: impl Fn(QueueDepth) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let depth = self.broker.depth(queue).await.expect("the queue exists");
            if met(depth) {
                return;
            }
            assert!(Instant::now() < deadline, "{queue} is {depth:?}, not {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The next delivery, which must come.
async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery comes in time")
        .expect("the consumer is fine")
        .expect("the consumer is not cancelled")
}

/// The ids of the next deliveries, acked.
async fn ack_next(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        ids.push(delivery.message.message_id.clone());
        delivery.ack().await.expect("the delivery can be acked");
    }
    ids
}

/// Nothing must come for a while.
async fn nothing(consumer: &mut Box<dyn Consumer>) {
    if let Ok(delivery) = tokio::time::timeout(A_WHILE, consumer.next()).await {
        panic!("nothing was expected, but got {delivery:?}");
    }
}

/// Turns every case of the suite into a test. `$make` connects a broker for a [`Topology`].
macro_rules! conformance {
    ($make:path) => {
        conformance!(@cases $make;
            flow: delivers_in_order_as_published,
            flow: respects_the_prefetch,
            flow: shares_the_queue_among_consumers,
            flow: takes_publishes_from_many_tasks,
            flow: loses_nothing_when_next_is_dropped,
            flow: cancels,
            flow: knows_the_depth,
            flow: declares_twice,
            settling: forgets_what_is_acked,
            settling: requeues_what_is_nacked,
            settling: dead_letters_what_is_rejected,
            settling: takes_back_what_a_dropped_consumer_held,
            settling: takes_back_a_dropped_delivery,
            settling: retries_after_the_delay,
            settling: gives_up_at_the_delivery_limit,
            settling: keeps_the_reason_of_a_dead_letter,
            failure: reports_unroutable_messages,
            failure: finds_the_unroutable_among_many,
            failure: reports_missing_queues,
            failure: ends_everything_when_closed,
            mailbox: opens_and_closes_mailboxes,
            mailbox: lets_unused_mailboxes_expire,
        );
    };
    (@cases $make:path; $($module:ident: $case:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                use crate::conformance::{Subject, $module};
                $module::$case(Subject::new(stringify!($case), $make).await).await;
            }
        )+
    };
}

pub(crate) use conformance;
