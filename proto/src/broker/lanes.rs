//! Two lanes for runs, so that a small one does not wait behind a huge one.
//!
//! A run goes as a whole into the lane in which less waits, and workers take from both alike: whoever has a lane to himself
//! gets half of the fleet, however much the other one holds. Nothing is held back for it, so that the broker shows all that
//! waits, and publishers may leave. Beside two huge runs a third one waits behind the smaller of them.

use super::{Broker, BrokerError, QueueDepth, QueueName, Topology};
use crate::job::Lane;

/// The queue of the lane in which a run waits least. A lane that nobody consumes while workers consume the other one does not
/// count: they are of an earlier version. While the broker cannot tell, it is the first.
pub async fn lane_for_run(broker: &dyn Broker, topology: &Topology) -> QueueName {
    let mut best: Option<((bool, u64), QueueName)> = None;
    for lane in Lane::BULK {
        let queue = topology.lane_queue(lane);
        let Ok(depth) = broker.depth(&queue).await else { continue };
        let wait = (depth.consumers == 0, depth.messages);
        if best.as_ref().is_none_or(|(least, _)| wait < *least) {
            best = Some((wait, queue));
        }
    }
    best.map_or_else(|| topology.lane_queue(Lane::Bulk), |(_, queue)| queue)
}

/// What waits in both lanes for runs. A worker consumes both and counts once.
///
/// # Errors
/// As [`Broker::depth`].
pub async fn runs_waiting(broker: &dyn Broker, topology: &Topology) -> Result<QueueDepth, BrokerError> {
    let mut all = QueueDepth { messages: 0, consumers: 0 };
    for lane in Lane::BULK {
        let depth = broker.depth(&topology.lane_queue(lane)).await?;
        all.messages += depth.messages;
        all.consumers = all.consumers.max(depth.consumers);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::Message;
    use crate::broker::embedded::EmbeddedBroker;

    async fn publish(broker: &EmbeddedBroker, queue: &QueueName, count: usize) {
        for number in 0..count {
            broker.publish(queue, Message::new(number.to_string(), "{}")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_run_waits_where_less_waits() {
        let topology = Topology::default();
        let broker = EmbeddedBroker::new(topology.clone());
        assert_eq!(lane_for_run(&broker, &topology).await.as_str(), "captionfleet.bulk", "nobody can tell");
        broker.declare().await.unwrap();
        let lanes = Lane::BULK.map(|lane| topology.lane_queue(lane));
        assert_eq!(lane_for_run(&broker, &topology).await, lanes[0]);
        publish(&broker, &lanes[0], 5).await;
        assert_eq!(lane_for_run(&broker, &topology).await, lanes[1]);
        publish(&broker, &lanes[1], 6).await;
        assert_eq!(lane_for_run(&broker, &topology).await, lanes[0]);
        let all = runs_waiting(&broker, &topology).await.unwrap();
        assert_eq!((all.messages, all.consumers), (11, 0));
    }

    #[tokio::test]
    async fn a_lane_that_only_one_kind_of_worker_consumes_is_left_alone() {
        let topology = Topology::default();
        let broker = EmbeddedBroker::new(topology.clone());
        broker.declare().await.unwrap();
        let bulk = topology.lane_queue(Lane::Bulk);
        let _worker = broker.consume(&bulk, 1).await.unwrap();
        publish(&broker, &bulk, 5).await;
        assert_eq!(lane_for_run(&broker, &topology).await, bulk);
    }
}
