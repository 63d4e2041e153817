//! What the service counts beside the dispatcher and the worker.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Instant;

/// Requests by route and status, and how long they took.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    open: IntGauge,
}

impl Metrics {
    /// Declares all metrics in `registry`.
    pub fn new(registry: Registry) -> prometheus::Result<Self> {
        let name = |name: &str| format!("captionfleet_service_{name}");
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(name("requests_total"), "Requests answered, by route and status."),
                &["method", "route", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(name("request_seconds"), "Time to the beginning of an answer, by route.")
                    .buckets(vec![0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0]),
                &["route"],
            )?,
            open: IntGauge::new(name("requests_open"), "Requests being answered.")?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.open.clone()))?;
        Ok(metrics)
    }

    /// Where everything is registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A request came. `route` is a pattern, not an address.
    pub fn begun(&self, method: &'static str, route: String) -> Open<'_> {
        self.open.inc();
        Open { metrics: self, method, route, since: Instant::now(), is_answered: false }
    }
}

/// A request that is being answered. One that is dropped before counts as `gone`: its client has left.
#[derive(Debug)]
pub struct Open<'a> {
    metrics: &'a Metrics,
    method: &'static str,
    route: String,
    since: Instant,
    is_answered: bool,
}

impl Open<'_> {
    /// Its answer begins.
    pub fn answered(mut self, status: u16) {
        self.is_answered = true;
        self.count(&status.to_string());
        self.metrics
            .seconds
            .with_label_values(&[self.route.as_str()])
            .observe(self.since.elapsed().as_secs_f64());
    }

    fn count(&self, status: &str) {
        self.metrics.requests.with_label_values(&[self.method, self.route.as_str(), status]).inc();
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.metrics.open.dec();
        if !self.is_answered {
            self.count("gone");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Metrics;
    use prometheus::Registry;

    #[test]
    fn a_request_whose_client_leaves_is_closed_and_counted() {
        let metrics = Metrics::new(Registry::new()).unwrap();
        metrics.begun("GET", "/a".to_owned()).answered(200);
        drop(metrics.begun("GET", "/a".to_owned()));
        let count = |status| metrics.requests.with_label_values(&["GET", "/a", status]).get();
        assert_eq!((count("200"), count("gone"), metrics.open.get()), (1, 1, 0));
    }
}
