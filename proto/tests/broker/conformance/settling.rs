//! What becomes of deliveries.

use std::time::Instant;

use jiff::Timestamp;

use super::{DELIVERY_LIMIT, RETRY_DELAY, Subject, ack_next, next, nothing};
use captionfleet_proto::broker::{DeadReason, Message, QueueDepth, Requeue};
use captionfleet_proto::job::Lane;

/// An acked message is gone for good.
pub async fn forgets_what_is_acked(subject: Subject) {
    subject.publish(&["a", "b"]).await;
    let mut consumer = subject.consume(1).await;
    assert_eq!(ack_next(&mut consumer, 2).await, ["a", "b"]);
    drop(consumer);
    subject.wait_for_depth(&subject.lane, QueueDepth { messages: 0, consumers: 0 }).await;
    let mut consumer = subject.consume(1).await;
    nothing(&mut consumer).await;
}

/// A requeued message comes again, flagged and counted.
pub async fn requeues_what_is_nacked(subject: Subject) {
    subject.publish(&["a"]).await;
    let mut consumer = subject.consume(1).await;
    next(&mut consumer).await.nack(Requeue::Yes).await.expect("nacked");
    let again = next(&mut consumer).await;
    assert_eq!(again.message, Message::new("a", "body of a"));
    assert!(again.redelivered);
    assert_eq!(again.delivery_count, 1);
    again.ack().await.expect("acked");
    nothing(&mut consumer).await;
}

/// A rejected message becomes a dead letter that says so.
pub async fn dead_letters_what_is_rejected(subject: Subject) {
    subject.publish(&["a"]).await;
    let mut consumer = subject.consume(1).await;
    next(&mut consumer).await.nack(Requeue::No).await.expect("nacked");
    nothing(&mut consumer).await;
    let mut dead = subject.consume_from(&subject.topology.dead_queue(), 1).await;
    let delivery = next(&mut dead).await;
    let reason = delivery.message.dead.clone().expect("a reason");
    assert_eq!((delivery.message.message_id.as_str(), reason.code.as_str()), ("a", "rejected"));
    assert_eq!(reason.queue, Some(subject.lane.clone()));
    assert!(reason.failed_at.is_some());
    delivery.ack().await.expect("acked");
}

/// What a consumer held when it was dropped comes again, and settling it late changes nothing.
pub async fn takes_back_what_a_dropped_consumer_held(subject: Subject) {
    subject.publish(&["a", "b", "c"]).await;
    let mut consumer = subject.consume(2).await;
    let held = next(&mut consumer).await;
    drop(consumer);
    subject.wait_for_depth(&subject.lane, QueueDepth { messages: 3, consumers: 0 }).await;
    held.ack().await.expect("a late ack is fine");
    let mut consumer = subject.consume(3).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        seen.push((delivery.message.message_id.clone(), delivery.redelivered));
        delivery.ack().await.expect("acked");
    }
    seen.sort();
    assert_eq!(seen[0], ("a".to_owned(), true));
    assert_eq!(seen[2], ("c".to_owned(), false));
    nothing(&mut consumer).await;
}

/// A delivery that is dropped unsettled, as in a panic, comes again.
pub async fn takes_back_a_dropped_delivery(subject: Subject) {
    subject.publish(&["a"]).await;
    let mut consumer = subject.consume(1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.ack().await.expect("acked");
    nothing(&mut consumer).await;
}

/// A message in a retry queue is back in its lane after the delay, not before.
pub async fn retries_after_the_delay(subject: Subject) {
    let retry = subject.topology.retry_queue(Lane::Bulk, 1).expect("there is a first retry");
    let mut consumer = subject.consume(2).await;
    let failed_at = Timestamp::from_second(1_700_000_000).expect("a time");
    let message = Message::new("a", "body").retried(failed_at);
    let published = Instant::now();
    subject.publish_to(&retry, message.clone()).await;
    let delivery = next(&mut consumer).await;
    assert!(published.elapsed() >= RETRY_DELAY.mul_f64(0.95), "too early: {:?}", published.elapsed());
    assert_eq!(delivery.message, message);
    assert_eq!((delivery.message.attempts, delivery.redelivered), (1, false));
    delivery.ack().await.expect("acked");
    subject.wait_for_depth(&retry, QueueDepth { messages: 0, consumers: 0 }).await;
}

/// A message that is handed out again and again ends as a dead letter.
pub async fn gives_up_at_the_delivery_limit(subject: Subject) {
    subject.publish(&["a", "b"]).await;
    let mut consumer = subject.consume(1).await;
    for count in 0..=DELIVERY_LIMIT {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.message.message_id.as_str(), delivery.delivery_count), ("a", u64::from(count)));
        delivery.nack(Requeue::Yes).await.expect("nacked");
    }
    assert_eq!(ack_next(&mut consumer, 1).await, ["b"]);
    nothing(&mut consumer).await;
    let mut dead = subject.consume_from(&subject.topology.dead_queue(), 1).await;
    let delivery = next(&mut dead).await;
    assert_eq!(delivery.message.dead.clone().expect("a reason").code, "delivery_limit");
    delivery.ack().await.expect("acked");
}

/// A dead letter of ours keeps its whole story.
pub async fn keeps_the_reason_of_a_dead_letter(subject: Subject) {
    let at = |second| Timestamp::from_second(second).expect("a time");
    let message = Message {
        attempts: 5,
        first_failed_at: Some(at(1_700_000_000)),
        dead: Some(DeadReason {
            code: "internal".to_owned(),
            message: "cannot write part: no space left".to_owned(),
            first_failed_at: Some(at(1_700_000_000)),
            failed_at: Some(at(1_700_000_900)),
            queue: Some(subject.lane.clone()),
        }),
        ..Message::new("a", "{}")
    };
    subject.publish_to(&subject.topology.dead_queue(), message.clone()).await;
    let mut dead = subject.consume_from(&subject.topology.dead_queue(), 1).await;
    let delivery = next(&mut dead).await;
    assert_eq!(delivery.message, message);
    delivery.ack().await.expect("acked");
}
