//! A caption job's life as types: received → inferred → settled, each made by consuming the one before.

use std::sync::Arc;
use std::time::Instant;

use captionfleet_proto::broker::{Delivery, Message};
use captionfleet_proto::job::{CaptionJob, Job, JobId, Lane, RunId};
use captionfleet_proto::outcome::JobOutcome;
use captionfleet_proto::rows::Row;
use captionfleet_proto::storage::Storage;
use jiff::Timestamp;

use super::Failure;
use crate::telemetry::spans;

/// Whether a process may have died on a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// First hand-over of a message that never failed.
    None,
    /// It failed before in an orderly way, waited for a store, or its turn was over before it was done; something of it may
    /// still exist.
    Begun,
    /// It was handed out before and not settled, or was published anew by someone who knew of that.
    Crash,
}

impl Suspicion {
    pub(super) fn of(delivery: &Delivery) -> Self {
        let message = &delivery.message;
        if delivery.redelivered || delivery.delivery_count > 0 || message.suspected {
            Self::Crash
        } else if message.attempts > 0 || message.turns > 0 || message.waiting_since.is_some() {
            Self::Begun
        } else {
            Self::None
        }
    }
}

/// A caption job that this worker will do.
pub(super) struct Received {
    pub(super) id: JobId,
    pub(super) run: RunId,
    pub(super) trace_id: String,
    pub(super) caption: CaptionJob,
    pub(super) archive: Arc<dyn Storage>,
    pub(super) lane: Lane,
    /// Attempts, this one included.
    pub(super) attempts: u32,
    /// No further attempt will be made.
    pub(super) last_attempt: bool,
    pub(super) suspicion: Suspicion,
    pub(super) started: Instant,
    pub(super) started_at: Timestamp,
}

impl Received {
    pub(super) fn new(
        job: &Job,
        caption: CaptionJob,
        archive: Arc<dyn Storage>,
        hand_over: &HandOver,
        max_attempts: u32,
    ) -> Self {
        let attempts = hand_over.message.attempts.saturating_add(1);
        Self {
            id: job.id.clone(),
            run: job.run.clone(),
            trace_id: hand_over.trace_id(job),
            caption,
            archive,
            lane: hand_over.lane,
            attempts,
            last_attempt: attempts >= max_attempts,
            suspicion: hand_over.suspicion,
            started: hand_over.started,
            started_at: hand_over.started_at,
        }
    }
}

/// How a message came here. The delivery itself stays with whoever settles it.
pub(super) struct HandOver {
    pub(super) message: Message,
    pub(super) lane: Lane,
    pub(super) suspicion: Suspicion,
    /// How often the broker handed it out before.
    pub(super) delivery_count: u64,
    pub(super) started: Instant,
    /// The same moment, for rows.
    pub(super) started_at: Timestamp,
}

impl HandOver {
    /// What links the job's log lines and rows: what the job says, else the trace that it is part of, else its id.
    pub(super) fn trace_id(&self, job: &Job) -> String {
        // A job that says nothing has its own id there.
        if job.trace_id != job.id.as_str() {
            return job.trace_id.clone();
        }
        let trace = spans::outgoing_or(self.message.trace.as_ref());
        trace.map_or_else(|| job.trace_id.clone(), |trace| trace.trace_id().to_owned())
    }
}

/// A caption job with a row for every item, in item order.
pub(super) struct Inferred {
    pub(super) task: Received,
    pub(super) rows: Vec<Row>,
}

/// How far a caption job came.
pub(super) enum Course {
    /// To its end.
    Whole(Box<Inferred>),
    /// The worker drains.
    Drained,
    /// Its turn was over; what is done of it is kept.
    TurnOver,
}

/// A job whose part is durable.
pub(super) struct Settled {
    pub(super) outcome: JobOutcome,
}

/// What is to become of a delivery.
pub(super) enum Verdict {
    /// Everything is durable: ack.
    Done,
    /// Retry or dead letter.
    Failed(Failure),
    /// The worker drains: back to the queue.
    Returned,
    /// It was held long enough: to the end of the queue.
    TurnOver,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_proto::broker::embedded::EmbeddedBroker;
    use captionfleet_proto::broker::{Broker as _, Topology};

    use super::*;

    #[tokio::test]
    async fn whoever_was_begun_is_looked_up_in_the_archive() {
        let topology = Topology::default();
        let broker = EmbeddedBroker::new(topology.clone());
        broker.declare().await.unwrap();
        let (lane, now) = (topology.lane_queue(Lane::Bulk), Timestamp::now());
        let new = || Message::new("job", "");
        let suspected = || Message { suspected: true, ..new() };
        for (message, expected) in [
            (new(), Suspicion::None),
            (new().passed_on(now), Suspicion::None),
            (new().waiting(now), Suspicion::Begun),
            (new().waiting(now).passed_on(now), Suspicion::Begun),
            (new().waiting(now).again(), Suspicion::Begun),
            (new().waiting(now).retried(now), Suspicion::Begun),
            (suspected().passed_on(now), Suspicion::Crash),
            (suspected().waiting(now), Suspicion::Crash),
            (suspected().again(), Suspicion::Crash),
            (suspected().retried(now), Suspicion::Crash),
        ] {
            broker.publish(&lane, message.clone()).await.unwrap();
            let mut consumer = broker.consume(&lane, 1).await.unwrap();
            let delivery = consumer.next().await.unwrap().unwrap();
            assert_eq!(Suspicion::of(&delivery), expected, "{message:?}");
            delivery.ack().await.unwrap();
        }
    }
}
