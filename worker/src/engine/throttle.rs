//! How many rows of a step run at once after the device has run out of memory.

/// Steps that must succeed before the limit is raised for the first time.
const PATIENCE: u32 = 32;
/// Patience doubles with every raise that failed, up to this.
const MOST_PATIENCE: u32 = 4096;

/// A limit that is halved on failure and grows back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Throttle {
    full: usize,
    now: usize,
    succeeded: u32,
    patience: u32,
    /// Whether the limit has been raised since memory ran out last.
    raised: bool,
}

impl Throttle {
    /// No limit below `full` rows.
    pub(super) fn new(full: usize) -> Self {
        let full = full.max(1);
        Self { full, now: full, succeeded: 0, patience: PATIENCE, raised: false }
    }

    /// Rows that may run together now.
    pub(super) fn rows(&self) -> usize {
        self.now
    }

    /// Memory ran out at `rows`. One row cannot be halved, and of more rows than the limit it is known: they are pieces of a
    /// batch that was cut before the limit fell.
    pub(super) fn ran_out(&mut self, rows: usize) {
        if rows <= 1 || rows > self.now {
            return;
        }
        if self.raised {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.now = rows / 2;
        (self.succeeded, self.raised) = (0, false);
    }

    /// A step of `rows` rows went well. Only steps at the limit say anything about a higher one.
    pub(super) fn went_well(&mut self, rows: usize) {
        if self.now == self.full || rows < self.now {
            return;
        }
        self.succeeded += 1;
        if self.succeeded >= self.patience {
            self.now = (self.now * 2).min(self.full);
            (self.succeeded, self.raised) = (0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_grows_back() {
        let mut throttle = Throttle::new(16);
        throttle.ran_out(16);
        throttle.ran_out(8);
        assert_eq!(throttle.rows(), 4);
        for limit in [4, 8] {
            for _ in 0..PATIENCE {
                assert_eq!(throttle.rows(), limit);
                throttle.went_well(limit);
            }
        }
        assert_eq!(throttle.rows(), 16);
    }

    #[test]
    fn pieces_of_one_batch_count_once() {
        let mut throttle = Throttle::new(32);
        throttle.ran_out(32);
        let once = throttle.clone();
        // The other pieces were cut before the limit fell.
        for _ in 0..3 {
            throttle.ran_out(32);
        }
        assert_eq!(throttle, once);
    }

    #[test]
    fn a_raise_that_failed_takes_longer_the_next_time() {
        let mut throttle = Throttle::new(8);
        throttle.ran_out(8);
        for patience in [PATIENCE, 2 * PATIENCE, 4 * PATIENCE] {
            for _ in 0..patience {
                assert_eq!(throttle.rows(), 4);
                throttle.went_well(4);
            }
            assert_eq!(throttle.rows(), 8);
            throttle.ran_out(8);
        }
    }

    #[test]
    fn small_steps_prove_nothing_about_large_ones() {
        let mut throttle = Throttle::new(4);
        throttle.ran_out(4);
        for _ in 0..10 * PATIENCE {
            throttle.went_well(1);
        }
        assert_eq!(throttle.rows(), 2);
    }

    #[test]
    fn one_row_cannot_be_halved() {
        let mut throttle = Throttle::new(4);
        throttle.ran_out(1);
        assert_eq!(throttle, Throttle::new(4));
    }
}
