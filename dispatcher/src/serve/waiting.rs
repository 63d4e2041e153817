//! What waits for workers, in seconds of their devices, for whoever scales the fleet.
//!
//! What this service has submitted counts from its books: waiting, in a worker's hands, resting before another try, or not
//! handed out yet. Whatever else the [`lanes`](super::lanes) hold are jobs of others, and are added. What work costs is the device's time that settled jobs took, by kind ([`price`](crate::scale::price)).

use super::Service;
use super::lanes::Lanes;
use crate::scale::price::{Kind, OpenWork, Prices};
use crate::scale::rule::{Rule, Signal};
use captionfleet_proto::broker::BrokerError;
use captionfleet_proto::job::Lane;
use captionfleet_worker::telemetry::readiness::Readiness;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry};
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
    /// Device seconds of a job of a run, by the jobs that settled last.
    pub seconds_per_job: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    /// What this service has submitted.
    own: OpenWork,
    /// Jobs of others.
    foreign_jobs: u64,
    /// Requests that somebody waits for.
    requests: u64,
}

/// The last look, and the metrics that tell it.
pub struct Waiting {
    rule: Rule,
    lanes: Lanes,
    last: Mutex<Option<(Instant, Load)>>,
    prices: GaugeVec,
    backlog: GaugeVec,
    wanted: IntGauge,
    index_lag: Gauge,
    dead: IntGaugeVec,
}

impl Waiting {
    /// Looks into `lanes` and declares the metrics in `registry`.
    pub fn new(rule: Rule, lanes: Lanes, registry: &Registry) -> prometheus::Result<Self> {
        let help = "Seconds that one device needs for all that waits or is in a worker's hands.";
        let backlog = GaugeVec::new(Opts::new("captionfleet_backlog_gpu_seconds", help), &["lane"])?;
        let wanted = IntGauge::new("captionfleet_wanted_workers", "Workers that the backlog is worth.")?;
        let help = "How long the oldest part that is not indexed has been there.";
        let index_lag = Gauge::new("captionfleet_index_lag_seconds", help)?;
        let help = "Seconds of the device for a picture or frame, by the jobs that settled last.";
        let prices = GaugeVec::new(Opts::new("captionfleet_item_gpu_seconds", help), &["kind"])?;
        let help = "Jobs that were given up and lie in this queue.";
        let dead = IntGaugeVec::new(Opts::new("captionfleet_dead_letters", help), &["queue"])?;
        registry.register(Box::new(dead.clone()))?;
        registry.register(Box::new(backlog.clone()))?;
        registry.register(Box::new(prices.clone()))?;
        registry.register(Box::new(wanted.clone()))?;
        registry.register(Box::new(index_lag.clone()))?;
        Ok(Self { rule, lanes, last: Mutex::default(), prices, backlog, wanted, index_lag, dead })
    }

    /// What the lanes hold.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// What waits, unless it was not to be seen lately.
    pub fn load(&self) -> Option<Load> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(when, _)| when.elapsed() < STALE).map(|(_, load)| load)
    }

    fn note(&self, open: Open, prices: &Prices) {
        let Open { own, foreign_jobs, requests } = open;
        let bulk = prices.of(own) + foreign_jobs as f64 * prices.per_job();
        let interactive = requests as f64 * prices.per_look(Kind::Requests);
        let signal = Signal { backlog_gpu_seconds: bulk + interactive, interactive_waiting: requests };
        let load = Load {
            backlog_gpu_seconds: signal.backlog_gpu_seconds,
            interactive_waiting: requests,
            wanted_workers: self.rule.wanted(signal),
            open_jobs: own.jobs() + foreign_jobs,
            seconds_per_job: prices.per_job(),
        };
        for kind in Kind::ALL {
            self.prices.with_label_values(&[kind.as_str()]).set(prices.per_look(kind));
        }
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
            Ok(open) => {
                readiness.ready(BROKER);
                service.waiting.note(open, &service.desk.members().prices());
            }
            // What was seen before holds for a while.
            Err(error) => readiness.not_ready(BROKER, error.to_string()),
        }
        look_at_lanes(service).await;
        count_dead(service).await;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = service.stop.cancelled() => {}
        }
    }
}

/// Whether or not a submission follows jobs there.
async fn look_at_lanes(service: &Service) {
    let fleet = &service.ground.fleet;
    for lane in Lane::BULK.map(|lane| fleet.topology.lane_queue(lane)) {
        if let Ok(depth) = fleet.broker.depth(&lane).await {
            service.desk.lane_seen(&lane, depth);
        }
    }
}

/// Workers tell the same of the queue, and there may be none.
async fn count_dead(service: &Service) {
    let fleet = &service.ground.fleet;
    let queue = fleet.topology.dead_queue();
    // While it cannot be looked at it stays as it was: nothing leaves it by itself.
    if let Ok(depth) = fleet.broker.depth(&queue).await {
        service.waiting.dead.with_label_values(&[queue.as_str()]).set(depth.messages as i64);
    }
}

/// What is to be done now.
async fn look(service: &Service) -> Result<Open, BrokerError> {
    let (broker, topology) = (&*service.ground.fleet.broker, &service.ground.fleet.topology);
    let held = service.waiting.lanes.held(broker, topology).await?;
    // This service's own jobs are known better from its books: they have those, too, that are not handed out yet.
    Ok(Open {
        own: service.desk.open_work(),
        foreign_jobs: held.runs.saturating_sub(service.desk.jobs_out()),
        requests: held.requests.max(service.questions.open()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Lanes, Open, Waiting};
    use crate::scale::price::{Kind, OpenWork, Prices, Work};
    use crate::scale::rule::Rule;
    use captionfleet_worker::telemetry::metrics::text_of;
    use prometheus::Registry;

    #[test]
    fn what_waits_is_weighed_by_what_was_measured_last() {
        let registry = Registry::new();
        let lanes = Lanes::new(None, &registry).unwrap();
        let waiting = Waiting::new(Rule { target_seconds: 600.0, most: 20 }, lanes, &registry).unwrap();
        assert_eq!(waiting.load(), None);
        let own = OpenWork { pictures: Work { jobs: 80, looks: 5120 }, films: Work { jobs: 10, looks: 500 } };
        let open = Open { own, foreign_jobs: 10, requests: 4 };
        let mut prices = Prices::default();
        waiting.note(open, &prices);
        assert_eq!(waiting.load().unwrap().backlog_gpu_seconds, 5120.0 / 4.0 + 500.0 / 4.0 + 160.0 + 1.0);
        prices.note(Kind::Pictures, 64, 16.0);
        prices.note(Kind::Films, 50, 100.0);
        prices.note(Kind::Requests, 1, 0.5);
        waiting.note(open, &prices);
        let load = waiting.load().unwrap();
        let bulk = 5120.0 / 4.0 + 500.0 * 2.0 + 10.0 * prices.per_job();
        assert_eq!((load.backlog_gpu_seconds, load.interactive_waiting), (bulk + 2.0, 4));
        assert_eq!((load.wanted_workers, load.open_jobs), (5, 100));
        let text = text_of(&registry);
        assert!(text.contains("captionfleet_item_gpu_seconds{kind=\"films\"} 2\n"), "{text}");
        assert!(text.contains("captionfleet_backlog_gpu_seconds{lane=\"bulk\"} "), "{text}");
        assert!(text.contains("captionfleet_wanted_workers 5\n"), "{text}");
    }
}
