#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::broker::Topology;
use crate::job::Lane;

const SECOND: Duration = Duration::from_secs(1);

struct World {
    queues: Queues,
    topology: Topology,
    now: Instant,
    lane: QueueName,
}

fn world(delivery_limit: u32) -> World {
    let topology = Topology::default()
        .with_retry_delays([SECOND])
        .with_delivery_limit(delivery_limit)
        .with_mailbox_expiry(SECOND);
    let mut queues = Queues::default();
    let now = Instant::now();
    for spec in topology.queues() {
        queues.declare(spec, now).unwrap();
    }
    let lane = topology.lane_queue(Lane::Bulk);
    World { queues, topology, now, lane }
}

impl World {
    fn publish(&mut self, id: &str) {
        let lane = self.lane.clone();
        self.queues.publish(&lane, Message::new(id, ""), self.now).unwrap();
    }

    fn subscribe(&mut self, prefetch: u16) -> ConsumerId {
        self.queues.subscribe(&self.lane.clone(), prefetch, self.now).unwrap()
    }

    fn take(&mut self, consumer: ConsumerId) -> Option<HandedOut> {
        match self.queues.next(&self.lane.clone(), consumer, self.now) {
            Next::Message(handed_out) => Some(*handed_out),
            Next::Wait(_) => None,
            other => panic!("unexpected {other:?}"),
        }
    }

    fn ids(&mut self, consumer: ConsumerId) -> Vec<String> {
        std::iter::from_fn(|| self.take(consumer)).map(|handed_out| handed_out.message.message_id).collect()
    }
}

#[test]
fn returned_messages_keep_their_place() {
    let mut world = world(9);
    for id in ["a", "b", "c", "d"] {
        world.publish(id);
    }
    let first = world.subscribe(3);
    let held: Vec<_> = (0..3).map(|_| world.take(first).unwrap()).collect();
    assert!(world.queues.ack(&held[1].ticket));
    let lane = world.lane.clone();
    world.queues.unsubscribe(&lane, first, world.now);
    let second = world.subscribe(10);
    assert_eq!(world.ids(second), ["a", "c", "d"]);
}

#[test]
fn a_late_ack_does_not_settle_the_next_hand_over() {
    let mut world = world(9);
    world.publish("a");
    let first = world.subscribe(1);
    let stale = world.take(first).unwrap();
    let lane = world.lane.clone();
    world.queues.unsubscribe(&lane, first, world.now);
    let second = world.subscribe(1);
    let fresh = world.take(second).unwrap();
    assert!(!world.queues.ack(&stale.ticket));
    assert!(!world.queues.nack(&stale.ticket, Requeue::Yes, world.now));
    assert_eq!(fresh.delivery_count, 1);
    assert!(world.queues.ack(&fresh.ticket));
}

#[test]
fn the_delivery_limit_counts_returns() {
    let mut world = world(2);
    world.publish("a");
    let consumer = world.subscribe(1);
    for count in 0..3 {
        let handed_out = world.take(consumer).unwrap();
        assert_eq!(handed_out.delivery_count, count);
        world.queues.nack(&handed_out.ticket, Requeue::Yes, world.now);
    }
    assert!(world.take(consumer).is_none());
    let dead = world.topology.dead_queue();
    assert_eq!(world.queues.depth(&dead, world.now).unwrap().messages, 1);
}

#[test]
fn a_waiting_consumer_learns_when_to_ask_again() {
    let mut world = world(9);
    let consumer = world.subscribe(1);
    let retry = world.topology.retry_queue(Lane::Bulk, 1).unwrap();
    world.queues.publish(&retry, Message::new("a", ""), world.now).unwrap();
    let lane = world.lane.clone();
    let Next::Wait(Some(due)) = world.queues.next(&lane, consumer, world.now) else { panic!("no due time") };
    assert_eq!(due, world.now + SECOND);
    world.now = due;
    let handed_out = world.take(consumer).unwrap();
    assert_eq!((handed_out.delivery_count, handed_out.message.dead), (0, None));
}

#[test]
fn an_unused_mailbox_vanishes_and_a_used_one_stays() {
    let mut world = world(9);
    let mailbox = world.topology.mailbox("run").unwrap();
    world.queues.declare(world.topology.mailbox_spec(&mailbox), world.now).unwrap();
    let consumer = world.queues.subscribe(&mailbox, 1, world.now).unwrap();
    world.now += 10 * SECOND;
    assert!(world.queues.depth(&mailbox, world.now).is_ok());
    world.queues.unsubscribe(&mailbox, consumer, world.now);
    world.now += SECOND;
    assert_eq!(world.queues.depth(&mailbox, world.now), Err(NoQueue));
}

#[test]
fn the_bounded_queue_drops_its_oldest() {
    let mut world = world(9);
    let spec = QueueSpec { max_length: Some(2), ..world.topology.mailbox_spec(&world.topology.dead_queue()) };
    let spec = QueueSpec { name: QueueName::new("small").unwrap(), ..spec };
    let name = spec.name.clone();
    world.queues.declare(spec.clone(), world.now).unwrap();
    for id in ["a", "b", "c"] {
        world.queues.publish(&name, Message::new(id, ""), world.now).unwrap();
    }
    world.lane = name;
    let consumer = world.subscribe(9);
    assert_eq!(world.ids(consumer), ["b", "c"]);
    assert!(world.queues.declare(QueueSpec { max_length: Some(3), ..spec }, world.now).is_err());
}
