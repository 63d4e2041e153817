//! What is refused, and how.

use std::sync::Arc;

use super::{PATIENCE, Subject, ack_next, nothing};
use captionfleet_proto::broker::{BrokerErrorKind, BrokerState, Message, QueueName};

fn missing(subject: &Subject) -> QueueName {
    QueueName::new(format!("{}.nowhere", subject.topology.prefix())).expect("a name")
}

/// A message for a queue that does not exist is refused, every time.
pub async fn reports_unroutable_messages(subject: Subject) {
    let nowhere = missing(&subject);
    for _ in 0..3 {
        let error = subject.broker.publish(&nowhere, Message::new("a", "x")).await.expect_err("unroutable");
        assert_eq!(error.kind(), BrokerErrorKind::Unroutable, "{error}");
        assert!(error.object().contains(nowhere.as_str()), "{error}");
    }
    subject.publish(&["b"]).await;
}

/// Among many publishes at once exactly the unroutable ones are refused.
pub async fn finds_the_unroutable_among_many(subject: Subject) {
    const MESSAGES: usize = 400;
    let nowhere = missing(&subject);
    let subject = Arc::new(subject);
    let publishes: Vec<_> = (0..MESSAGES)
        .map(|number| {
            let subject = Arc::clone(&subject);
            let queue = if number % 3 == 0 { nowhere.clone() } else { subject.lane.clone() };
            tokio::spawn(async move {
                subject.broker.publish(&queue, Message::new(number.to_string(), "x")).await
            })
        })
        .collect();
    for (number, publish) in publishes.into_iter().enumerate() {
        let outcome = publish.await.expect("no panic").map_err(|error| error.kind());
        let expected = if number % 3 == 0 { Err(BrokerErrorKind::Unroutable) } else { Ok(()) };
        assert_eq!(outcome, expected, "message {number}");
    }
    let routable = (0..MESSAGES).filter(|number| number % 3 != 0).count();
    let mut consumer = subject.consume(50).await;
    ack_next(&mut consumer, routable).await;
    nothing(&mut consumer).await;
}

/// A queue that does not exist can be neither consumed nor looked at.
pub async fn reports_missing_queues(subject: Subject) {
    let nowhere = missing(&subject);
    let refused = subject.broker.consume(&nowhere, 1).await.map(drop).expect_err("no queue");
    assert_eq!(refused.kind(), BrokerErrorKind::NoSuchQueue, "{refused}");
    let refused = subject.broker.depth(&nowhere).await.expect_err("no queue");
    assert_eq!(refused.kind(), BrokerErrorKind::NoSuchQueue, "{refused}");
    // Nothing else suffers from the refusals.
    subject.publish(&["a"]).await;
    let mut consumer = subject.consume(1).await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["a"]);
}

/// After closing, waiting consumers end and everything else is refused.
pub async fn ends_everything_when_closed(subject: Subject) {
    assert_eq!(subject.broker.state(), BrokerState::Connected);
    let mut consumer = subject.consume(1).await;
    let waiting = tokio::spawn(async move { consumer.next().await.map(|delivery| delivery.is_none()) });
    tokio::task::yield_now().await;
    subject.broker.close().await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("it ends").expect("no panic");
    assert!(ended.expect("no error"), "a delivery after closing");
    assert_eq!(subject.broker.state(), BrokerState::Closed);
    let error = subject.broker.publish(&subject.lane, Message::new("a", "x")).await.expect_err("closed");
    assert_eq!(error.kind(), BrokerErrorKind::Closed, "{error}");
    let error = subject.broker.consume(&subject.lane, 1).await.map(drop).expect_err("closed");
    assert_eq!(error.kind(), BrokerErrorKind::Closed, "{error}");
    subject.broker.close().await;
}
