//! The dispatcher's metrics, declared once. Labels take their values from small fixed sets.

use crate::ledger::Tally;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What the dispatcher counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    published: IntCounter,
    returned: IntCounter,
    jobs: IntCounterVec,
    items: IntCounterVec,
    in_flight: IntGauge,
    queue_depth: IntGauge,
    consumers: IntGauge,
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
            in_flight: IntGauge::new(name("jobs_in_flight"), "Jobs published and not yet settled.")?,
            queue_depth: IntGauge::new(
                name("queue_depth"),
                "Messages waiting in the run's lane, as last seen.",
            )?,
            consumers: IntGauge::new(name("queue_consumers"), "Consumers of the run's lane, as last seen.")?,
            registry,
        };
        let build = IntGauge::with_opts(
            Opts::new(name("build_info"), "Always 1.").const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        for metric in [&metrics.in_flight, &metrics.queue_depth, &metrics.consumers, &build] {
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

    /// How many jobs are open.
    pub fn open_jobs(&self, count: usize) {
        self.in_flight.set(count as i64);
    }

    /// What the broker says about the run's lane.
    pub fn queue_seen(&self, messages: u64, consumers: u32) {
        self.queue_depth.set(messages as i64);
        self.consumers.set(i64::from(consumers));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Metrics;
    use crate::ledger::Tally;

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
