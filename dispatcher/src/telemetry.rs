//! The dispatcher's metrics, declared once. Labels take their values from small fixed sets.

use crate::ledger::Tally;
use captionfleet_proto::broker::{QueueDepth, QueueName};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What the dispatcher counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    published: IntCounter,
    returned: IntCounter,
    jobs: IntCounterVec,
    items: IntCounterVec,
    in_flight: IntGauge,
    queue_depth: IntGaugeVec,
    consumers: IntGaugeVec,
}

/// The open jobs of one submission among those of all; they do not count any more when this is dropped.
#[derive(Debug)]
pub struct OpenJobs {
    all: IntGauge,
    own: i64,
}

impl OpenJobs {
    /// So many are open now.
    pub fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all.add(count - self.own);
        self.own = count;
    }
}

impl Drop for OpenJobs {
    fn drop(&mut self) {
        self.set(0);
    }
}

const PREFIX: &str = "captionfleet_dispatcher_";

impl Metrics {
    /// Declares all metrics in `registry`.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let name = |name: &str| format!("{PREFIX}{name}");
        let metrics = Self {
            published: IntCounter::new(name("jobs_published_total"), "Jobs that the broker has confirmed.")?,
            returned: IntCounter::new(
                name("jobs_returned_total"),
                "Jobs that the broker returned as unroutable; they are published again.",
            )?,
            jobs: IntCounterVec::new(
                Opts::new(name("jobs_total"), "Jobs that settled, by what became of them."),
                &["outcome"],
            )?,
            items: IntCounterVec::new(
                Opts::new(name("items_total"), "Rows seen, by status and error code."),
                &["status", "code"],
            )?,
            in_flight: IntGauge::new(
                name("jobs_in_flight"),
                "Jobs of all runs that are followed, published or still held back, that have not settled.",
            )?,
            queue_depth: IntGaugeVec::new(
                Opts::new(name("queue_depth"), "Messages waiting in a lane for runs, as last seen."),
                &["queue"],
            )?,
            consumers: IntGaugeVec::new(
                Opts::new(name("queue_consumers"), "Consumers of a lane for runs, as last seen."),
                &["queue"],
            )?,
            registry,
        };
        let build = IntGauge::with_opts(
            Opts::new(name("build_info"), "Always 1.").const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        for metric in [&metrics.in_flight, &build] {
            metrics.registry.register(Box::new(metric.clone()))?;
        }
        for metric in [&metrics.queue_depth, &metrics.consumers] {
            metrics.registry.register(Box::new(metric.clone()))?;
        }
        metrics.registry.register(Box::new(metrics.published.clone()))?;
        metrics.registry.register(Box::new(metrics.returned.clone()))?;
        metrics.registry.register(Box::new(metrics.jobs.clone()))?;
        metrics.registry.register(Box::new(metrics.items.clone()))?;
        Ok(metrics)
    }

    /// Where the metrics are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A job was confirmed by the broker.
    pub fn job_published(&self) {
        self.published.inc();
    }

    /// The broker had no queue for so many jobs.
    pub fn jobs_returned(&self, count: usize) {
        self.returned.inc_by(count as u64);
    }

    /// A job settled with these rows.
    pub fn job_settled(&self, tally: &Tally) {
        self.jobs.with_label_values(&["settled"]).inc();
        self.items.with_label_values(&["ok", ""]).inc_by(tally.ok);
        self.items.with_label_values(&["skipped", ""]).inc_by(tally.skipped);
        for (code, count) in &tally.failed {
            self.items.with_label_values(&["failed", code]).inc_by(*count);
        }
    }

    /// A job was given up.
    pub fn job_dead(&self) {
        self.jobs.with_label_values(&["dead"]).inc();
    }

    /// Room for the open jobs of one submission.
    pub fn open_jobs(&self) -> OpenJobs {
        OpenJobs { all: self.in_flight.clone(), own: 0 }
    }

    /// What the broker says about a lane for runs.
    pub fn queue_seen(&self, queue: &QueueName, depth: QueueDepth) {
        self.queue_depth.with_label_values(&[queue.as_str()]).set(depth.messages as i64);
        self.consumers.with_label_values(&[queue.as_str()]).set(i64::from(depth.consumers));
    }

    /// Nobody looks at the lane any more.
    pub fn queue_left(&self, queue: &QueueName) {
        for metric in [&self.queue_depth, &self.consumers] {
            // It may never have been seen.
            drop(metric.remove_label_values(&[queue.as_str()]));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Metrics;
    use crate::ledger::Tally;

    #[test]
    fn open_jobs_are_those_of_all_submissions() {
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let (mut one, mut other) = (metrics.open_jobs(), metrics.open_jobs());
        one.set(5);
        other.set(7);
        one.set(4);
        assert_eq!(metrics.in_flight.get(), 11);
        drop(other);
        assert_eq!(metrics.in_flight.get(), 4);
    }

    #[test]
    fn rows_are_counted_by_status_and_code() {
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let failed = [("corrupt".to_owned(), 2)].into();
        metrics.job_settled(&Tally { ok: 3, failed, ..Tally::default() });
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.registry().gather()).unwrap();
        assert!(text.contains("items_total{code=\"corrupt\",status=\"failed\"} 2"), "{text}");
        assert!(text.contains("captionfleet_dispatcher_build_info{version="), "{text}");
    }
}
