//! How long the device did nothing although items were on their way to it.

use std::time::{Duration, Instant};

/// Two clocks: one runs while items are upstream of the device, the other is read when the device reports.
///
/// The device tells of an idle spell only when it ends. By then the item that ended it is upstream, so asking
/// "is anything upstream now" would count a quiet night as starvation; the overlap of both clocks does not.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    upstream: usize,
    since: Option<Instant>,
    waited: Duration,
    waited_at_last_report: Duration,
    busy: f64,
    idle: f64,
    starved: f64,
}

impl Starvation {
    /// An item sets out for the device.
    pub(crate) fn enter(&mut self, now: Instant) {
        self.upstream += 1;
        self.since.get_or_insert(now);
    }

    /// An item has reached the device, or will not.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.upstream = self.upstream.saturating_sub(1);
        if self.upstream == 0
            && let Some(since) = self.since.take()
        {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// The device computed for `seconds` until now.
    pub(crate) fn busy(&mut self, seconds: f64, now: Instant) {
        self.busy += seconds;
        self.waited_at_last_report = self.waited(now);
    }

    /// The device did nothing for `seconds` until now; returns how many of them were starved.
    pub(crate) fn idle(&mut self, seconds: f64, now: Instant) -> f64 {
        let waited = self.waited(now);
        let starved = seconds.min(waited.saturating_sub(self.waited_at_last_report).as_secs_f64());
        self.waited_at_last_report = waited;
        self.idle += seconds;
        self.starved += starved;
        starved
    }

    /// Starved seconds over all reported seconds.
    pub(crate) fn ratio(&self) -> f64 {
        let all = self.busy + self.idle;
        if all > 0.0 { self.starved / all } else { 0.0 }
    }

    fn waited(&self, now: Instant) -> Duration {
        let running = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.waited + running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
    }

    #[test]
    fn a_quiet_night_is_not_starvation() {
        let mut clock = Starvation::default();
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        clock.busy(1.0, at(1.0));
        clock.enter(at(3600.0));
        // The item took half a second to reach the device, which then reports an hour of rest.
        close(clock.idle(3599.5, at(3600.5)), 0.5);
    }

    #[test]
    fn idle_time_with_items_upstream_all_along_is_starved_whole() {
        let mut clock = Starvation::default();
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        clock.enter(at(0.0));
        clock.enter(at(0.0));
        clock.leave(at(0.5));
        clock.busy(3.0, at(3.0));
        close(clock.idle(1.0, at(4.0)), 1.0);
        close(clock.ratio(), 0.25);
    }
}
