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
}

impl Throttle {
    /// No limit below `full` rows.
    pub(super) fn new(full: usize) -> Self {
        let full = full.max(1);
        Self { full, now: full, succeeded: 0, patience: PATIENCE }
    }

    /// Rows that may run together now.
    pub(super) fn rows(&self) -> usize {
        self.now
    }

    /// Memory ran out at `rows`. One row cannot be halved.
    pub(super) fn ran_out(&mut self, rows: usize) {
        if rows <= 1 {
            return;
        }
        if self.now < self.full {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.now = (rows / 2).min(self.now);
        self.succeeded = 0;
    }

    /// A step of `rows` rows went well. Only steps at the limit say anything about a higher one.
    pub(super) fn went_well(&mut self, rows: usize) {
        if self.now == self.full || rows < self.now {
            return;
        }
        self.succeeded += 1;
        if self.succeeded >= self.patience {
            self.now = (self.now * 2).min(self.full);
            self.succeeded = 0;
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
        for _ in 0..2 * PATIENCE {
            throttle.went_well(4);
        }
        assert_eq!(throttle.rows(), 8);
        for _ in 0..4 * PATIENCE {
            throttle.went_well(8);
        }
        assert_eq!(throttle.rows(), 16);
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
