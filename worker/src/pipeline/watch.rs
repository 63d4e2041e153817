//! Looks at the broker now and then: is it there, and how much waits in its queues. Looks at the device: does it move. Looks
//! at what could not be used: archives, and the disk of copies.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_proto::broker::{BrokerError, BrokerErrorKind, BrokerState, QueueName};
use captionfleet_proto::chain;
use captionfleet_proto::job::Lane;

use super::Pipeline;
use super::drain::Drain;
use crate::telemetry::events;

/// The readiness condition that this file keeps.
const BROKER: &str = "broker";
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// Every how many looks at the state the depths are asked for.
const DEPTHS_EVERY: u32 = 10;
const STORES_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before queues that the broker refused are declared again.
const DECLARE_AGAIN: Duration = Duration::from_secs(2);

/// Declares the queues. Those that exist with other arguments, or that the user may not have, are mended by people: the worker says so
/// and waits, where one that ends would be started again and again.
pub(super) async fn declare(pipeline: &Pipeline) -> Result<(), BrokerError> {
    let mut said = None;
    loop {
        let error = match pipeline.broker.declare().await {
            Err(error) if matches!(error.kind(), BrokerErrorKind::Declare | BrokerErrorKind::Refused) => {
                error
            }
            declared => return declared,
        };
        let reason = chain(&error);
        if said.as_ref() != Some(&reason) {
            events::queues_refused(&reason);
            said = Some(reason.clone());
        }
        pipeline.readiness.not_ready(BROKER, reason);
        tokio::time::sleep(DECLARE_AGAIN).await;
    }
}

/// Watches until the drain, then says that the worker takes no more jobs.
pub(super) async fn broker(pipeline: Arc<Pipeline>, drain: Drain) {
    tokio::select! {
        () = drain.soft.cancelled() => {}
        () = watch(&pipeline) => {}
    }
    pipeline.readiness.not_ready(BROKER, "draining");
}

/// Gives up a device that hangs, whether or not whoever asked it still waits. Goes on for as long as anything is in hand.
pub(super) async fn device(pipeline: &Pipeline) -> Infallible {
    pipeline.engine.watch_pulse(pipeline.options.item_deadline).await;
    std::future::pending().await
}

/// Looks until the worker drains whether what could not be used can be again: the jobs for it may be with other workers by then.
pub(super) async fn stores(pipeline: Arc<Pipeline>, drain: Drain) {
    let look = async {
        loop {
            tokio::time::sleep(STORES_INTERVAL).await;
            tokio::join!(pipeline.look_at_archives(Instant::now()), pipeline.look_at_spool());
        }
    };
    tokio::select! {
        () = drain.soft.cancelled() => {}
        () = look => {}
    }
}

async fn watch(pipeline: &Pipeline) {
    let topology = &pipeline.options.topology;
    let mut queues: Vec<QueueName> = Lane::ALL.into_iter().map(|lane| topology.lane_queue(lane)).collect();
    queues.push(topology.dead_queue());
    let mut rounds = (0..DEPTHS_EVERY).cycle();
    loop {
        match problem(pipeline.broker.state()) {
            None => pipeline.readiness.ready(BROKER),
            Some(problem) => pipeline.readiness.not_ready(BROKER, problem),
        }
        if rounds.next() == Some(0) {
            look(pipeline, &queues).await;
        }
        tokio::time::sleep(STATE_INTERVAL).await;
    }
}

async fn look(pipeline: &Pipeline, queues: &[QueueName]) {
    for queue in queues {
        // While the broker is away the last value stands.
        if let Ok(depth) = pipeline.broker.depth(queue).await {
            pipeline.metrics.queue_depth.with_label_values(&[queue.as_str()]).set(depth.messages as i64);
        }
    }
}

fn problem(state: BrokerState) -> Option<String> {
    match state {
        BrokerState::Connected => None,
        BrokerState::Connecting { since, last_error } => {
            let reason = last_error.map_or_else(String::new, |error| format!(": {error}"));
            Some(format!("away since {since}{reason}"))
        }
        BrokerState::Blocked { reason } => Some(format!("takes no messages: {reason}")),
        BrokerState::Closed => Some("closed".to_owned()),
    }
}
