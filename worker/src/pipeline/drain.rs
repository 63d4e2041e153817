//! Shutting down: take nothing new, finish what runs, return the rest.

use std::time::Duration;

use captionfleet_proto::broker::{Delivery, Requeue};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use super::task::Suspicion;
use crate::telemetry::events;

/// How long a job may still tidy up after the grace period, and notices may take once the last job has settled.
pub(super) const TIDY_UP: Duration = Duration::from_secs(2);

/// The two moments of a shutdown.
#[derive(Clone)]
pub(super) struct Drain {
    /// Nothing new from here on.
    pub(super) soft: CancellationToken,
    /// The grace period is over: stop where you are.
    pub(super) hard: CancellationToken,
}

impl Drain {
    pub(super) fn new(soft: CancellationToken) -> Self {
        Self { soft, hard: CancellationToken::new() }
    }

    /// Resolves when a job must be dropped even if it did not stop by itself.
    pub(super) async fn out_of_patience(&self) {
        self.hard.cancelled().await;
        tokio::time::sleep(TIDY_UP).await;
    }

    /// Resolves when nothing is settled any more: a broker that cannot be reached has the delivery, and gives it to another
    /// worker.
    pub(super) async fn out_of_time(&self) {
        self.out_of_patience().await;
        tokio::time::sleep(2 * TIDY_UP).await;
    }
}

impl Pipeline {
    /// Gives a job back unfinished.
    ///
    /// A nacked message comes back flagged as redelivered, which is how a crash looks as well, and would be run item
    /// by item. So a job is published again and acked, with the attempts that it has had, and as one of which something may be
    /// done; if the broker does not confirm in time, or a process may have died on the job, it is nacked. Over one of the jobs in
    /// hand the device may hang or have broken: then all of them are suspected.
    pub(super) async fn hand_back(&self, delivery: Delivery, kind: &'static str, suspicion: Suspicion) {
        let id = delivery.message.message_id.clone();
        events::job_returned(&self.metrics, kind, &id);
        let published = suspicion != Suspicion::Crash
            && !self.engine.is_hung()
            && !self.engine.is_broken()
            && timeout(TIDY_UP, self.broker.publish(&delivery.queue, delivery.message.clone().again()))
                .await
                .is_ok_and(|published| published.is_ok());
        let settled = if published { delivery.ack() } else { return self.nack(delivery, &id).await }.await;
        if let Err(error) = settled {
            events::settle_failed(&id, &error);
        }
    }

    /// Leaves a delivery to the broker.
    pub(super) async fn nack(&self, delivery: Delivery, id: &str) {
        if let Err(error) = delivery.nack(Requeue::Yes).await {
            events::settle_failed(id, &error);
        }
    }
}
