//! Consumes all lanes, hands each delivery to a task of its own, and drains. No tensors.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_proto::broker::topology::DELIVERY_LIMIT;
use captionfleet_proto::broker::{Consumer, Delivery, QueueName};
use captionfleet_proto::job::Lane;
use futures::FutureExt;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::drain::Drain;
use super::outcome::MessageFacts;
use super::task::{HandOver, Suspicion, Verdict};
use super::{Failure, Pipeline};
use crate::panics;
use crate::telemetry::{events, spans};

const CONSUME_PAUSE: Duration = Duration::from_secs(2);

/// Consumes one lane until the drain, then waits for its jobs.
pub(super) async fn consume_lane(pipeline: Arc<Pipeline>, lane: Lane, drain: Drain) -> anyhow::Result<()> {
    // Whoever subscribes is handed jobs, and those that it gives back unseen look as if a worker had died on them.
    if drain.soft.is_cancelled() {
        return Ok(());
    }
    let queue = pipeline.options.topology.lane_queue(lane);
    let mut consumer = match pipeline.consume(&queue, lane).await {
        Ok(consumer) => consumer,
        Err(error) => {
            // Without one lane the worker is no worker: let the other one drain, too.
            drain.soft.cancel();
            return Err(error.into());
        }
    };
    let mut tasks = JoinSet::new();
    loop {
        let next = tokio::select! {
            biased;
            () = drain.soft.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            next = consumer.next() => next,
        };
        match next {
            Ok(Some(delivery)) => {
                tasks.spawn(Arc::clone(&pipeline).handle(lane, delivery, drain.clone()));
            }
            Ok(None) => break,
            Err(error) => {
                events::consume_failed(&queue, &error);
                if let Some(again) = pipeline.consume_again(&queue, lane, &drain).await {
                    consumer = again;
                }
            }
        }
    }
    // Deliveries in hand can only be settled while the consumer lives.
    if let Err(error) = consumer.cancel().await {
        events::consume_failed(&queue, &error);
    }
    if !tasks.is_empty() {
        events::drain_started(tasks.len() as i64, pipeline.options.grace);
    }
    let finish = async { while tasks.join_next().await.is_some() {} };
    tokio::pin!(finish);
    tokio::select! {
        () = &mut finish => {}
        () = tokio::time::sleep(pipeline.options.grace) => {
            drain.hard.cancel();
            finish.await;
        }
    }
    Ok(())
}

impl Pipeline {
    async fn consume(
        &self,
        queue: &QueueName,
        lane: Lane,
    ) -> Result<Box<dyn Consumer>, captionfleet_proto::broker::BrokerError> {
        let prefetch = match lane {
            Lane::Bulk | Lane::Bulk2 => self.options.prefetch_bulk,
            Lane::Interactive => self.options.prefetch_interactive,
        };
        self.broker.consume(queue, prefetch.max(1)).await
    }

    /// Someone removed the queue: make it again. `None` if the worker drains meanwhile.
    async fn consume_again(&self, queue: &QueueName, lane: Lane, drain: &Drain) -> Option<Box<dyn Consumer>> {
        loop {
            tokio::select! {
                () = drain.soft.cancelled() => return None,
                () = tokio::time::sleep(CONSUME_PAUSE) => {}
            }
            let consumer = match self.broker.declare().await {
                Ok(()) => self.consume(queue, lane).await,
                Err(error) => Err(error),
            };
            match consumer {
                Ok(consumer) => return Some(consumer),
                Err(error) => events::consume_failed(queue, &error),
            }
        }
    }

    /// One delivery from hand-over to settlement, as a span of the trace that its message belongs to.
    async fn handle(self: Arc<Self>, lane: Lane, delivery: Delivery, drain: Drain) {
        let span = tracing::info_span!(
            target: spans::TARGET,
            "process",
            otel.kind = "consumer",
            messaging.system = if self.broker.is_local() { "embedded" } else { "rabbitmq" },
            messaging.destination.name = %delivery.queue,
            messaging.message.id = delivery.message.message_id,
            job.attempts = delivery.message.attempts.saturating_add(1),
            job.redelivered = delivery.redelivered,
            worker.name = self.options.worker_name,
        );
        let span = spans::continued(span, delivery.message.trace.as_ref());
        self.do_and_settle(lane, delivery, drain).instrument(span).await;
    }

    /// Nothing that happens inside ends the worker.
    async fn do_and_settle(self: Arc<Self>, lane: Lane, mut delivery: Delivery, drain: Drain) {
        self.metrics.jobs_in_flight.inc();
        let suspicion = Suspicion::of(&delivery);
        // The broker forgets what happened to a message that is published anew: it may rest, or be for another worker.
        delivery.message.suspected = suspicion == Suspicion::Crash;
        let hand_over = HandOver {
            message: delivery.message.clone(),
            lane,
            suspicion,
            delivery_count: delivery.delivery_count,
            started: Instant::now(),
            started_at: Timestamp::now(),
        };
        let verdict = if delivery.delivery_count >= u64::from(DELIVERY_LIMIT) {
            Verdict::Failed(Failure::DeliveryLimit(delivery.delivery_count))
        } else {
            self.contained(&hand_over, &drain).await
        };
        if let Verdict::Failed(failure) = &verdict {
            spans::failed(failure.code());
        }
        let settling = async {
            match verdict {
                Verdict::Done => {
                    if let Err(error) = delivery.ack().await {
                        events::settle_failed(&hand_over.message.message_id, &error);
                    }
                }
                Verdict::Failed(failure) => self.retry_or_bury(delivery, lane, &failure).await,
                Verdict::Returned => {
                    let kind = MessageFacts::of(&hand_over.message).kind;
                    self.hand_back(delivery, kind, suspicion).await;
                }
                Verdict::TurnOver => self.next_turn(delivery).await,
            }
        };
        tokio::select! {
            () = settling.instrument(tracing::info_span!(target: spans::TARGET, "settle")) => {}
            () = drain.out_of_time() => events::settle_given_up(&hand_over.message.message_id),
        }
        self.metrics.jobs_in_flight.dec();
    }

    /// Routes the message; a panic becomes a failure, the end of the grace period a return.
    async fn contained(&self, hand_over: &HandOver, drain: &Drain) -> Verdict {
        let work = AssertUnwindSafe(self.route(hand_over, drain)).catch_unwind();
        tokio::select! {
            verdict = work => verdict.unwrap_or_else(|panic| {
                let message = panics::message(panic.as_ref());
                events::panicked(&self.metrics, &hand_over.message.message_id, &message);
                Verdict::Failed(Failure::Panicked(message))
            }),
            () = drain.out_of_patience() => Verdict::Returned,
        }
    }
}
