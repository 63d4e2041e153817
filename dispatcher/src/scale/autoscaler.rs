//! What KEDA and the horizontal pod autoscaler make of a signal over time, with the settings of `deploy/kubernetes`.
//!
//! KEDA wakes the first worker and lets the last one go; between one and many the autoscaler compares the signal with its
//! target every 15 seconds, grows at once within its policies, and shrinks to the most that it wanted in the last minutes.
//! Sources: KEDA, *Scaling Deployments*; Kubernetes, *Horizontal Pod Autoscaling*, sections on algorithm, tolerance and
//! scaling policies.

use std::collections::VecDeque;

use super::rule::{INTERACTIVE_PER_WORKER, Rule, Signal};

/// Seconds between two looks of KEDA (`pollingInterval`).
const POLLING: u64 = 5;
/// Seconds between two looks of the autoscaler.
const SYNC: u64 = 15;
/// Seconds without work before the last worker goes (`cooldownPeriod`).
const COOLDOWN: u64 = 600;
/// Seconds for which less must have been right (`scaleDown.stabilizationWindowSeconds`).
const STABILISATION: u64 = 300;
/// The autoscaler leaves a fleet alone that is this close to what it wants.
const TOLERANCE: f64 = 0.1;
/// At one look it may add so many, or as many as there are.
const MOST_AT_ONCE: u32 = 4;
/// Seconds in which at most half of the workers go.
const SHRINK_PERIOD: u64 = 60;

/// The autoscaler's memory.
#[derive(Debug)]
pub struct Autoscaler {
    rule: Rule,
    last_active: Option<u64>,
    /// What was wanted at each look of the last minutes.
    wanted: VecDeque<(u64, u32)>,
    /// When workers were sent away, and how many.
    sent_away: VecDeque<(u64, u32)>,
}

impl Autoscaler {
    /// An autoscaler that has seen nothing yet.
    pub fn new(rule: Rule) -> Self {
        Self { rule, last_active: None, wanted: VecDeque::new(), sent_away: VecDeque::new() }
    }

    /// How many workers there shall be, `now` seconds after the start, where there are `workers`.
    pub fn look(&mut self, now: u64, signal: Signal, workers: u32) -> u32 {
        if now.is_multiple_of(POLLING) && signal.is_active() {
            self.last_active = Some(now);
            if workers == 0 {
                return 1.min(self.rule.most);
            }
        }
        if workers == 0 {
            return 0;
        }
        if self.last_active.is_none_or(|last| now - last >= COOLDOWN) {
            self.wanted.clear();
            return 0;
        }
        if now.is_multiple_of(SYNC) { self.compare(now, signal, workers) } else { workers }
    }

    fn compare(&mut self, now: u64, signal: Signal, workers: u32) -> u32 {
        let raw = self.rule.wanted(signal).clamp(1, self.rule.most);
        let load = (signal.backlog_gpu_seconds / self.rule.target_seconds)
            .max(signal.interactive_waiting as f64 / INTERACTIVE_PER_WORKER as f64);
        let wanted = if (load / f64::from(workers) - 1.0).abs() <= TOLERANCE { workers } else { raw };
        self.wanted.push_back((now, wanted));
        while self.wanted.front().is_some_and(|(then, _)| now - then > STABILISATION) {
            self.wanted.pop_front();
        }
        if wanted > workers {
            return wanted.min(workers + workers.max(MOST_AT_ONCE));
        }
        let steady = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted);
        self.shrink(now, workers, steady.min(workers))
    }

    fn shrink(&mut self, now: u64, workers: u32, to: u32) -> u32 {
        while self.sent_away.front().is_some_and(|(then, _)| now - then >= SHRINK_PERIOD) {
            self.sent_away.pop_front();
        }
        let gone: u32 = self.sent_away.iter().map(|(_, count)| count).sum();
        let before = workers + gone;
        let least = before - (before / 2).max(1);
        let next = to.max(least).min(workers);
        if next < workers {
            self.sent_away.push_back((now, workers - next));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::{Autoscaler, COOLDOWN, STABILISATION};
    use crate::scale::rule::{Rule, Signal};

    fn backlog(backlog_gpu_seconds: f64) -> Signal {
        Signal { backlog_gpu_seconds, interactive_waiting: 0 }
    }

    fn autoscaler() -> Autoscaler {
        Autoscaler::new(Rule { target_seconds: 300.0, most: 20 })
    }

    #[test]
    fn grows_in_steps_and_stops_at_the_most() {
        let mut autoscaler = autoscaler();
        let signal = backlog(1e6);
        assert_eq!(autoscaler.look(0, signal, 0), 1);
        assert_eq!(autoscaler.look(15, signal, 1), 5);
        assert_eq!(autoscaler.look(16, signal, 5), 5, "between two looks nothing happens");
        assert_eq!(autoscaler.look(30, signal, 5), 10);
        assert_eq!(autoscaler.look(45, signal, 10), 20);
        assert_eq!(autoscaler.look(60, signal, 20), 20);
    }

    #[test]
    fn a_request_wakes_one_worker_at_the_next_look() {
        let mut autoscaler = autoscaler();
        let signal = Signal { backlog_gpu_seconds: 0.0, interactive_waiting: 1 };
        assert_eq!(autoscaler.look(3, signal, 0), 0);
        assert_eq!(autoscaler.look(5, signal, 0), 1);
    }

    #[test]
    fn shrinks_late_and_by_half_a_minute_and_to_none_after_the_cooldown() {
        let mut autoscaler = autoscaler();
        assert_eq!(autoscaler.look(0, backlog(4800.0), 16), 16);
        let (mut workers, mut last, mut now) = (16, 0, 0);
        while workers > 0 && now < 3600 {
            now += 1;
            let next = autoscaler.look(now, backlog(0.0), workers);
            assert!(next <= workers);
            if next < workers && next > 0 {
                assert!(now > STABILISATION, "{now}: less was not right for long enough");
                assert!(next >= workers / 2, "{now}: {workers} to {next}");
                assert!(last == 0 || now - last >= 60, "{now}: twice within a minute");
                last = now;
            }
            workers = next;
        }
        assert_eq!(now, COOLDOWN);
    }

    #[test]
    fn a_fleet_that_is_about_right_is_left_alone() {
        let mut autoscaler = autoscaler();
        assert_eq!(autoscaler.look(0, backlog(3270.0), 10), 10);
        assert_eq!(autoscaler.look(15, backlog(3301.0), 10), 12);
    }
}
