//! The engine's view of the metrics: what the device did, and whether it had to wait.

use std::sync::PoisonError;
use std::time::Instant;

use super::Metrics;
use super::starvation::Starvation;
use crate::engine::{EngineObserver, Stage};

impl EngineObserver for Metrics {
    fn stage(&self, stage: Stage, seconds: f64, rows: usize, capacity: usize) {
        let label = stage.as_str();
        self.stage_seconds.with_label_values(&[label]).observe(seconds);
        if capacity > 0 {
            self.batch_occupancy.with_label_values(&[label]).observe(rows as f64 / capacity as f64);
        }
        self.device_busy.inc_by(seconds.max(0.0));
        self.with_starvation(|clock| clock.busy(seconds.max(0.0), Instant::now()));
    }

    fn tokens(&self, count: usize) {
        self.tokens.inc_by(count as u64);
    }

    fn out_of_memory(&self, stage: Stage, rows: usize) {
        self.out_of_memory.with_label_values(&[stage.as_str()]).inc();
        tracing::warn!(step = stage.as_str(), batch.rows = rows, "the device ran out of memory");
    }

    fn queued(&self, seconds: f64) {
        self.stage_seconds.with_label_values(&["queue"]).observe(seconds);
    }

    fn idle(&self, seconds: f64) {
        let seconds = seconds.max(0.0);
        let starved = self.with_starvation(|clock| clock.idle(seconds, Instant::now()));
        self.device_idle.inc_by(seconds);
        self.device_starved.inc_by(starved);
    }
}

impl Metrics {
    fn with_starvation<T>(&self, change: impl FnOnce(&mut Starvation) -> T) -> T {
        let mut clock = self.starvation.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut clock);
        self.starvation_ratio.set(clock.ratio());
        result
    }

    /// An item sets out for the device; the guard is dropped when it arrives or gives up.
    pub(crate) fn item_upstream(&self) -> Upstream<'_> {
        self.with_starvation(|clock| clock.enter(Instant::now()));
        Upstream { metrics: self }
    }
}

impl Metrics {
    /// An item is being worked on until the guard is dropped.
    pub(crate) fn item_in_flight(&self) -> InFlight<'_> {
        self.items_in_flight.inc();
        InFlight { metrics: self }
    }
}

/// An item being worked on.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    metrics: &'a Metrics,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.items_in_flight.dec();
    }
}

/// An item on its way to the device.
#[derive(Debug)]
pub(crate) struct Upstream<'a> {
    metrics: &'a Metrics,
}

impl Drop for Upstream<'_> {
    fn drop(&mut self) {
        self.metrics.with_starvation(|clock| clock.leave(Instant::now()));
    }
}
