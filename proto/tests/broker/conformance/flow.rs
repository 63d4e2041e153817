//! How messages get from publishers to consumers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Subject, ack_next, next, nothing};
use captionfleet_proto::broker::{Message, QueueDepth, QueueName};
use captionfleet_proto::trace_context::TraceContext;

/// First in, first out, with everything that was published.
pub async fn delivers_in_order_as_published(subject: Subject) {
    let message = Message {
        correlation_id: Some("search-7".to_owned()),
        reply_to: Some(QueueName::new("somewhere.else").expect("a name")),
        trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("a=b")),
        attempts: 3,
        first_failed_at: Some(Timestamp::from_second(1_700_000_000).expect("a time")),
        passed_on_since: Some(Timestamp::from_second(1_700_000_300).expect("a time")),
        waiting_since: Some(Timestamp::from_second(1_700_000_200).expect("a time")),
        ..Message::new("full", vec![0, 255, 10, 13])
    };
    subject.publish(&["a", "b", "c", "d", "e"]).await;
    subject.publish_to(&subject.lane, message.clone()).await;
    subject.publish_to(&subject.lane, Message::new("", "")).await;
    let mut consumer = subject.consume(2).await;
    assert_eq!(ack_next(&mut consumer, 5).await, ["a", "b", "c", "d", "e"]);
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message, message);
    assert_eq!(
        (delivery.queue.clone(), delivery.redelivered, delivery.delivery_count),
        (subject.lane.clone(), false, 0)
    );
    delivery.ack().await.expect("acked");
    let empty = next(&mut consumer).await;
    assert_eq!(empty.message, Message::new("", ""));
    empty.ack().await.expect("acked");
}

/// A consumer never holds more than its prefetch, and goes on after settling.
pub async fn respects_the_prefetch(subject: Subject) {
    subject.publish(&["a", "b", "c", "d"]).await;
    let mut consumer = subject.consume(2).await;
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    nothing(&mut consumer).await;
    second.ack().await.expect("acked");
    let third = next(&mut consumer).await;
    assert_eq!(third.message.message_id, "c");
    nothing(&mut consumer).await;
    first.ack().await.expect("acked");
    assert_eq!(next(&mut consumer).await.message.message_id, "d");
}

/// Two consumers get different messages.
pub async fn shares_the_queue_among_consumers(subject: Subject) {
    let mut first = subject.consume(1).await;
    let mut second = subject.consume(1).await;
    subject.publish(&["a", "b", "c", "d"]).await;
    let held = (next(&mut first).await, next(&mut second).await);
    assert_ne!(held.0.message.message_id, held.1.message.message_id);
    held.0.ack().await.expect("acked");
    held.1.ack().await.expect("acked");
    let rest = (next(&mut first).await, next(&mut second).await);
    let rest: BTreeSet<_> = [rest.0.message.message_id, rest.1.message.message_id].into();
    assert_eq!(rest, BTreeSet::from(["c".to_owned(), "d".to_owned()]));
}

/// Every message of many publishers arrives once.
pub async fn takes_publishes_from_many_tasks(subject: Subject) {
    const TASKS: usize = 16;
    const EACH: usize = 50;
    let subject = Arc::new(subject);
    let publishers: Vec<_> = (0..TASKS)
        .map(|task| {
            let subject = Arc::clone(&subject);
            tokio::spawn(async move {
                for number in 0..EACH {
                    subject.publish_to(&subject.lane, Message::new(format!("{task}-{number}"), "x")).await;
                }
            })
        })
        .collect();
    let mut consumer = subject.consume(100).await;
    let ids = ack_next(&mut consumer, TASKS * EACH).await;
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), TASKS * EACH);
    for publisher in publishers {
        publisher.await.expect("the publisher succeeds");
    }
    nothing(&mut consumer).await;
    // Of one publisher that waits for its confirms, the order holds.
    for task in 0..TASKS {
        let prefix = format!("{task}-");
        let numbers: Vec<usize> =
            ids.iter().filter_map(|id| id.strip_prefix(&prefix)?.parse().ok()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

/// A `next` that is given up loses no delivery.
pub async fn loses_nothing_when_next_is_dropped(subject: Subject) {
    const MESSAGES: usize = 60;
    let subject = Arc::new(subject);
    let mut consumer = subject.consume(5).await;
    let publisher = tokio::spawn({
        let subject = Arc::clone(&subject);
        async move {
            for number in 0..MESSAGES {
                subject.publish_to(&subject.lane, Message::new(format!("{number:03}"), "x")).await;
            }
        }
    });
    let mut ids = Vec::new();
    while ids.len() < MESSAGES {
        let Ok(delivery) = tokio::time::timeout(Duration::from_micros(200), consumer.next()).await else {
            continue;
        };
        let delivery = delivery.expect("fine").expect("not cancelled");
        ids.push(delivery.message.message_id.clone());
        delivery.ack().await.expect("acked");
    }
    publisher.await.expect("the publisher succeeds");
    assert!(ids.is_sorted() && ids.iter().collect::<BTreeSet<_>>().len() == MESSAGES, "{ids:?}");
}

/// After cancelling, nothing new comes, what was not handed out is back, what is in hand can be settled.
pub async fn cancels(subject: Subject) {
    subject.publish(&["a", "b", "c"]).await;
    let mut consumer = subject.consume(3).await;
    let held = next(&mut consumer).await;
    consumer.cancel().await.expect("cancelled");
    assert!(consumer.next().await.expect("fine").is_none());
    subject.wait_for_messages(&subject.lane, 2).await;
    held.ack().await.expect("acked");
    consumer.cancel().await.expect("cancelled twice");
    drop(consumer);
    let mut other = subject.consume(3).await;
    let mut ids = ack_next(&mut other, 2).await;
    ids.sort();
    assert_eq!(ids, ["b", "c"]);
    nothing(&mut other).await;
}

/// The depth counts what waits and who consumes.
pub async fn knows_the_depth(subject: Subject) {
    let depth = |messages, consumers| QueueDepth { messages, consumers };
    subject.wait_for_depth(&subject.lane, depth(0, 0)).await;
    subject.publish(&["a", "b", "c"]).await;
    subject.wait_for_depth(&subject.lane, depth(3, 0)).await;
    let mut consumer = subject.consume(1).await;
    let held = next(&mut consumer).await;
    subject.wait_for_depth(&subject.lane, depth(2, 1)).await;
    consumer.cancel().await.expect("cancelled");
    held.ack().await.expect("acked");
    drop(consumer);
    subject.wait_for_depth(&subject.lane, depth(2, 0)).await;
}

/// Declaring again changes nothing.
pub async fn declares_twice(subject: Subject) {
    subject.publish(&["a"]).await;
    subject.broker.declare().await.expect("declared again");
    let mut consumer = subject.consume(1).await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["a"]);
}
