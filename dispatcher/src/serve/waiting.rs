//! What waits for workers, in seconds of their devices, for whoever scales the fleet.
//!
//! What this service has submitted counts from its books: waiting, in a worker's hands, resting before another try, or not
//! handed out yet. Jobs of others on the same queues count as far as the broker shows them, which is while they wait. What
//! a job costs is measured, from the time in which workers had jobs; until one has settled it is assumed.

use super::Service;
use super::members::Price;
use crate::scale::rule::{Rule, Signal};
use captionfleet_proto::broker::BrokerError;
use captionfleet_proto::broker::lanes::runs_waiting;
use captionfleet_proto::job::Lane;
use captionfleet_worker::telemetry::readiness::Readiness;
use prometheus::{Gauge, GaugeVec, IntGauge, Opts, Registry};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it is weighed.
const PAUSE: Duration = Duration::from_secs(2);
/// The condition that the queues can be looked at.
const BROKER: &str = "broker";
/// What is older than this is not told any more.
const STALE: Duration = Duration::from_secs(30);
/// What work costs until the first job has settled: 64 pictures on a small GPU.
const ASSUMED: Price = Price { seconds_per_job: 16.0, seconds_per_row: 0.25 };

/// What waits, and what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Load {
    /// Seconds that one device needs for everything that waits or is in a worker's hands, requests included.
    pub backlog_gpu_seconds: f64,
    /// Requests that somebody waits for.
    pub interactive_waiting: u64,
    /// Workers that this is worth.
    pub wanted_workers: u32,
    /// Jobs that are not done.
    pub open_jobs: u64,
    /// Device seconds of a job, as measured last.
    pub seconds_per_job: f64,
}

/// The last look, and the metrics that tell it.
pub struct Waiting {
    rule: Rule,
    last: Mutex<Option<(Instant, Load)>>,
    price: Mutex<Price>,
    backlog: GaugeVec,
    wanted: IntGauge,
    index_lag: Gauge,
}

impl Waiting {
    /// Declares the metrics in `registry`.
    pub fn new(rule: Rule, registry: &Registry) -> prometheus::Result<Self> {
        let help = "Seconds that one device needs for all that waits or is in a worker's hands.";
        let backlog = GaugeVec::new(Opts::new("captionfleet_backlog_gpu_seconds", help), &["lane"])?;
        let wanted = IntGauge::new("captionfleet_wanted_workers", "Workers that the backlog is worth.")?;
        let help = "How long the oldest part that is not indexed has been there.";
        let index_lag = Gauge::new("captionfleet_index_lag_seconds", help)?;
        registry.register(Box::new(backlog.clone()))?;
        registry.register(Box::new(wanted.clone()))?;
        registry.register(Box::new(index_lag.clone()))?;
        Ok(Self { rule, last: Mutex::default(), price: Mutex::new(ASSUMED), backlog, wanted, index_lag })
    }

    /// What waits, unless it was not to be seen lately.
    pub fn load(&self) -> Option<Load> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(when, _)| when.elapsed() < STALE).map(|(_, load)| load)
    }

    /// The price as measured, or as it was before.
    fn price(&self, measured: Option<Price>) -> Price {
        let mut price = self.price.lock().unwrap_or_else(PoisonError::into_inner);
        *price = measured.unwrap_or(*price);
        *price
    }

    fn note(&self, open_jobs: u64, requests: u64, price: Price) {
        let bulk = open_jobs as f64 * price.seconds_per_job;
        let interactive = requests as f64 * price.seconds_per_row;
        let signal = Signal { backlog_gpu_seconds: bulk + interactive, interactive_waiting: requests };
        let load = Load {
            backlog_gpu_seconds: signal.backlog_gpu_seconds,
            interactive_waiting: requests,
            wanted_workers: self.rule.wanted(signal),
            open_jobs,
            seconds_per_job: price.seconds_per_job,
        };
        self.backlog.with_label_values(&[Lane::Bulk.as_str()]).set(bulk);
        self.backlog.with_label_values(&[Lane::Interactive.as_str()]).set(interactive);
        self.wanted.set(load.wanted_workers.into());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), load));
    }
}

/// Weighs what waits, every few seconds until the service ends, and says whether the broker can be used.
pub async fn watch(service: &Service, readiness: &Readiness) {
    while !service.stop.is_cancelled() {
        service.waiting.index_lag.set(service.index.lag().as_secs_f64());
        match look(service).await {
            Ok((jobs, requests)) => {
                readiness.ready(BROKER);
                let price = service.waiting.price(service.desk.members().price());
                service.waiting.note(jobs, requests, price);
            }
            // What was seen before holds for a while.
            Err(error) => readiness.not_ready(BROKER, error.to_string()),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = service.stop.cancelled() => {}
        }
    }
}

/// Jobs that are not done, and requests that wait.
async fn look(service: &Service) -> Result<(u64, u64), BrokerError> {
    let (broker, topology) = (&service.ground.fleet.broker, &service.ground.fleet.topology);
    let interactive = topology.lane_queue(Lane::Interactive);
    let (runs, interactive) =
        tokio::try_join!(runs_waiting(&**broker, topology), broker.depth(&interactive))?;
    Ok((service.desk.open_jobs().max(runs.messages), interactive.messages))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{ASSUMED, Price, Waiting};
    use crate::scale::rule::Rule;
    use captionfleet_worker::telemetry::metrics::text_of;
    use prometheus::Registry;

    #[test]
    fn what_waits_is_weighed_by_what_was_measured_last() {
        let registry = Registry::new();
        let waiting = Waiting::new(Rule { target_seconds: 600.0, most: 20 }, &registry).unwrap();
        assert_eq!(waiting.load(), None);
        waiting.note(100, 0, waiting.price(None));
        assert_eq!(waiting.load().unwrap().backlog_gpu_seconds, 100.0 * ASSUMED.seconds_per_job);
        let measured = Price { seconds_per_job: 30.0, seconds_per_row: 0.5 };
        waiting.note(100, 4, waiting.price(Some(measured)));
        let load = waiting.load().unwrap();
        assert_eq!((load.backlog_gpu_seconds, load.interactive_waiting, load.wanted_workers), (3002.0, 4, 6));
        assert_eq!(waiting.price(None), measured, "it holds while nothing settles");
        let text = text_of(&registry);
        assert!(text.contains("captionfleet_backlog_gpu_seconds{lane=\"bulk\"} 3000\n"), "{text}");
        assert!(text.contains("captionfleet_wanted_workers 6\n"), "{text}");
    }
}
