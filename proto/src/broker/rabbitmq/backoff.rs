//! Pauses between attempts: doubling, capped, jittered.

use std::time::Duration;

use rand::Rng;

/// The first pause. Short, because a broker that restarts refuses connections at once.
const FIRST: Duration = Duration::from_millis(200);

/// The pauses of one series of attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(max: Duration) -> Self {
        Self { next: FIRST.min(max), max }
    }

    /// Between half and all of the current step, so that a fleet does not return in one instant.
    pub(super) fn next_pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_jitters_below_it() {
        let max = Duration::from_secs(2);
        let mut backoff = Backoff::new(max);
        let pauses: Vec<Duration> = (0..8).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses[2] >= FIRST * 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= max));
        assert!(pauses[7] >= max / 2);
    }
}
