#![allow(clippy::unwrap_used)]

use super::{Exchange, new_id};
use async_trait::async_trait;
use captionfleet_proto::broker::embedded::EmbeddedBroker;
use captionfleet_proto::broker::{
    Broker, BrokerError, BrokerState, Consumer, Message, QueueDepth, QueueName, Topology,
};
use captionfleet_proto::codec::DecodeError;
use captionfleet_proto::job::{Job, Lane, Query, RunId};
use captionfleet_proto::uri::ArchiveUri;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// As long as a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(60);

/// A queue that can go away: then looking fails at once, and what waits for its return waits for ever. One that hangs does not
/// even fail.
struct Away {
    queues: EmbeddedBroker,
    closed: EmbeddedBroker,
    is_away: AtomicBool,
    hangs: AtomicBool,
    opened: AtomicUsize,
}

impl Away {
    async fn new(topology: &Topology) -> Self {
        let (queues, closed) = (EmbeddedBroker::new(topology.clone()), EmbeddedBroker::new(topology.clone()));
        queues.declare().await.unwrap();
        closed.close().await;
        let (is_away, hangs) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { queues, closed, is_away, hangs, opened: AtomicUsize::new(0) }
    }

    async fn back(&self) {
        self.moves().await;
        if self.is_away.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    async fn moves(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }
}

#[async_trait]
impl Broker for Away {
    async fn declare(&self) -> Result<(), BrokerError> {
        self.queues.declare().await
    }

    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), BrokerError> {
        self.back().await;
        self.queues.publish(queue, message).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.back().await;
        self.queues.consume(queue, prefetch).await
    }

    async fn depth(&self, queue: &QueueName) -> Result<QueueDepth, BrokerError> {
        self.moves().await;
        let broker = if self.is_away.load(Ordering::Relaxed) { &self.closed } else { &self.queues };
        broker.depth(queue).await
    }

    async fn open_mailbox(&self, name: &str) -> Result<QueueName, BrokerError> {
        self.back().await;
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.queues.open_mailbox(name).await
    }

    async fn close_mailbox(&self, mailbox: &QueueName) -> Result<(), BrokerError> {
        self.back().await;
        self.queues.close_mailbox(mailbox).await
    }

    async fn close(&self) {
        self.queues.close().await;
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.queues.describe()
    }

    fn state(&self) -> BrokerState {
        self.queues.state()
    }
}

/// Answers every question with its own id.
async fn answer_all(broker: Arc<Away>, lane: QueueName) {
    let mut questions = broker.consume(&lane, 8).await.unwrap();
    while let Some(question) = questions.next().await.unwrap() {
        let id = question.message.message_id.clone();
        let mut answer = Message::new(id.clone(), id.clone());
        answer.correlation_id = Some(id);
        let mailbox = question.message.reply_to.clone().unwrap();
        broker.publish(&mailbox, answer).await.unwrap();
        question.ack().await.unwrap();
    }
}

async fn ask(exchange: &Exchange, gone: &CancellationToken) -> anyhow::Result<Vec<u8>> {
    let archive = ArchiveUri::parse("s3://bucket/archive").unwrap();
    let query = Query::Text { text: "a boat".to_owned() };
    let job = Job::search(new_id().unwrap(), RunId::new("search").unwrap(), archive, query);
    let read = |bytes: &[u8]| Ok::<_, DecodeError>(bytes.to_vec());
    tokio::time::timeout(LIMIT, exchange.ask(&job, gone, read)).await.expect("asking ends")
}

#[tokio::test]
async fn mailboxes_outlive_a_broker_that_was_away_and_hold_up_nobody_meanwhile() {
    let topology = Topology::with_prefix("exchange").unwrap();
    let broker = Arc::new(Away::new(&topology).await);
    let worker = tokio::spawn(answer_all(broker.clone(), topology.lane_queue(Lane::Interactive)));
    let mut exchange = Exchange::new(broker.clone(), topology, LIMIT);
    let gone = CancellationToken::new();
    let (one, other) = tokio::join!(ask(&exchange, &gone), ask(&exchange, &gone));
    assert_ne!(one.unwrap(), other.unwrap());
    let opened = || broker.opened.load(Ordering::Relaxed);
    assert_eq!(opened(), 2);

    broker.is_away.store(true, Ordering::Relaxed);
    let leaving = gone.child_token();
    leaving.cancel();
    assert_eq!(ask(&exchange, &leaving).await.unwrap_err().to_string(), "stopped");
    exchange.patience = Duration::from_millis(20);
    ask(&exchange, &gone).await.unwrap_err();

    broker.is_away.store(false, Ordering::Relaxed);
    exchange.patience = LIMIT;
    ask(&exchange, &gone).await.unwrap();
    assert_eq!(opened(), 2, "a mailbox that was kept serves again");
    worker.abort();
}

#[tokio::test]
async fn a_question_that_is_on_its_way_when_the_broker_goes_ends_with_its_patience() {
    let topology = Topology::with_prefix("exchange").unwrap();
    let lane = topology.lane_queue(Lane::Interactive);
    for hangs in [false, true] {
        let broker = Arc::new(Away::new(&topology).await);
        let mut questions = broker.consume(&lane, 1).await.unwrap();
        let exchange = Exchange::new(broker.clone(), topology.clone(), Duration::from_secs(1));
        let goes = async {
            let question = questions.next().await.unwrap();
            let how = if hangs { &broker.hangs } else { &broker.is_away };
            how.store(true, Ordering::Relaxed);
            question
        };
        let gone = CancellationToken::new();
        let (answer, question) = tokio::join!(ask(&exchange, &gone), goes);
        assert!(question.is_some() && answer.is_err());
    }
}
