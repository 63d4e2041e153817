//! Metrics whose value is found out when somebody asks for it.

use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, Registry};

use super::readiness::Readiness;

/// Declares `captionfleet_ready`: 1 while everything holds that a program waits for.
pub fn tell_readiness(registry: &Registry, readiness: Arc<Readiness>) {
    let gauge = IntGauge::new("captionfleet_ready", "1 while this program can work, 0 otherwise.");
    let gauge = gauge.expect("the name is a literal");
    // A program that opens a second port tells it on the first.
    let _ = registry.register(Box::new(Ready { readiness, gauge }));
}

struct Ready {
    readiness: Arc<Readiness>,
    gauge: IntGauge,
}

impl Collector for Ready {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::from(self.readiness.is_ready()));
        self.gauge.collect()
    }
}

/// Declares `captionfleet_worker_null_engine`, which only workers without a model have.
pub fn tell_null_engine(registry: &Registry) {
    let help = "1 while the null engine serves, for load tests only: captions are not captions.";
    let gauge = IntGauge::new("captionfleet_worker_null_engine", help).expect("the name is a literal");
    gauge.set(1);
    // It is told once, when the worker starts.
    let _ = registry.register(Box::new(gauge));
}

/// Declares `captionfleet_worker_cost_total`: what this worker's machine has cost since the worker was started.
pub fn tell_cost(registry: &Registry, price_per_hour: f64) {
    let help = "Price of this worker's time since its start, by --price-per-hour.";
    let counter = Counter::new("captionfleet_worker_cost_total", help).expect("the name is a literal");
    // It is told once, when the worker starts.
    let _ = registry.register(Box::new(Cost { since: Instant::now(), price_per_hour, counter }));
}

struct Cost {
    since: Instant,
    price_per_hour: f64,
    counter: Counter,
}

impl Collector for Cost {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let cost = self.since.elapsed().as_secs_f64() / 3600.0 * self.price_per_hour;
        // Two scrapes at once may both add the same; a counter never goes back.
        self.counter.inc_by((cost - self.counter.get()).max(0.0));
        self.counter.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::text_of;

    #[test]
    fn readiness_is_as_it_is_when_asked_for() {
        let (registry, readiness) = (Registry::new(), Readiness::waiting_for(["broker"]));
        tell_readiness(&registry, readiness.clone());
        tell_readiness(&registry, readiness.clone());
        assert!(text_of(&registry).contains("\ncaptionfleet_ready 0\n"));
        readiness.ready("broker");
        assert!(text_of(&registry).contains("\ncaptionfleet_ready 1\n"));
    }

    #[test]
    fn time_costs_money() {
        let registry = Registry::new();
        tell_cost(&registry, 3.6e6);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let cost = || -> f64 {
            let text = text_of(&registry);
            let line = text.lines().find(|line| line.starts_with("captionfleet_worker_cost_total "));
            line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
        };
        let (first, second) = (cost(), cost());
        assert!(first >= 20.0 && second >= first, "{first} {second}");
    }
}
