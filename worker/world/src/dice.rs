//! The source of chance: a small generator whose sequence never changes with a dependency.

/// A seeded `SplitMix64` generator: the same seed gives the same scenes and pictures on every machine and version.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// A generator for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x5EED_0F5C_E4E5_0001) }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in an f32")]
        let value = (self.bits() >> 40) as f32;
        value / 16_777_216.0
    }

    /// A number in `[low, high)`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with probability `share`.
    pub fn chance(&mut self, share: f32) -> bool {
        self.unit() < share
    }

    /// An index below `count`.
    ///
    /// # Panics
    ///
    /// When `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "no index lies below 0");
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
        let index = (self.bits() % count as u64) as usize;
        index
    }

    /// One of `items`, all equally likely.
    ///
    /// # Panics
    ///
    /// When `items` is empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Scrambles 64 bits (the finaliser of `SplitMix64`); also the hash that selects held-out arrangements.
#[must_use]
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
