//! Growing pauses, for a limited time, while somebody else must make room or come back.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(8);

/// How long to wait before the next attempt, and whether there is to be one.
pub(super) struct Patience {
    since: Instant,
    limit: Duration,
    pause: Duration,
}

impl Patience {
    /// Lasts for `limit`, from now on.
    pub(super) fn new(limit: Duration) -> Self {
        Self { since: Instant::now(), limit, pause: FIRST }
    }

    /// The next pause, twice as long as the one before up to a few seconds; `None` if it would outlast the limit.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        (self.since.elapsed() + pause <= self.limit).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut patience = Patience::new(Duration::from_secs(5));
        let pauses: Vec<_> = std::iter::from_fn(|| patience.pause()).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000]);
        assert_eq!(Patience::new(Duration::ZERO).pause(), None);
    }
}
