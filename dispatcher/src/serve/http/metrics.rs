//! What the service counts beside the dispatcher and the worker.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Duration;

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

    /// A request came.
    pub fn begun(&self) {
        self.open.inc();
    }

    /// Its answer begins. `route` is a pattern, not an address.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.open.dec();
        self.requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }
}
