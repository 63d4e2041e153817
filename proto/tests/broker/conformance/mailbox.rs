//! Queues for the outcomes of one run or the replies of one search.

use std::time::{Duration, Instant};

use super::{MAILBOX_EXPIRY, PATIENCE, Subject, ack_next, next};
use captionfleet_proto::broker::{BrokerErrorKind, Message};

/// A mailbox can be opened, found again with what is in it, and closed.
pub async fn opens_and_closes_mailboxes(subject: Subject) {
    let mailbox = subject.broker.open_mailbox("run-1").await.expect("opened");
    assert_eq!(mailbox, subject.topology.mailbox("run-1").expect("a name"));
    subject.publish_to(&mailbox, Message::new("a", "outcome")).await;
    assert_eq!(subject.broker.open_mailbox("run-1").await.expect("found again"), mailbox);
    let mut consumer = subject.consume_from(&mailbox, 4).await;
    assert_eq!(next(&mut consumer).await.message.body, "outcome");
    subject.publish_to(&mailbox, Message::new("b", "outcome")).await;
    subject.broker.close_mailbox(&mailbox).await.expect("closed");
    let gone = loop {
        match tokio::time::timeout(PATIENCE, consumer.next()).await.expect("the consumer notices") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the consumer was not cancelled"),
            Err(gone) => break gone,
        }
    };
    assert_eq!(gone.kind(), BrokerErrorKind::NoSuchQueue, "{gone}");
    let error = subject.broker.publish(&mailbox, Message::new("c", "outcome")).await.expect_err("closed");
    assert_eq!(error.kind(), BrokerErrorKind::Unroutable, "{error}");
    subject.broker.close_mailbox(&mailbox).await.expect("closing twice is fine");
}

/// A mailbox that is consumed stays, one that nobody consumes vanishes.
pub async fn lets_unused_mailboxes_expire(subject: Subject) {
    let mailbox = subject.broker.open_mailbox("run-2").await.expect("opened");
    let mut consumer = subject.consume_from(&mailbox, 1).await;
    tokio::time::sleep(MAILBOX_EXPIRY + Duration::from_secs(1)).await;
    subject.publish_to(&mailbox, Message::new("a", "outcome")).await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["a"]);
    drop(consumer);
    let deadline = Instant::now() + MAILBOX_EXPIRY + PATIENCE;
    while subject.broker.depth(&mailbox).await.is_ok() {
        assert!(Instant::now() < deadline, "the mailbox does not expire");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let error = subject.broker.publish(&mailbox, Message::new("b", "outcome")).await.expect_err("expired");
    assert_eq!(error.kind(), BrokerErrorKind::Unroutable, "{error}");
}
