//! Which frames of a video become rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rows never stand for more than this, and segments begin only at multiples of it, in milliseconds.
///
/// Frames are compared afresh from every multiple on, whether or not a segment begins there: that is why a film gives
/// the same rows however it is cut.
pub const ANCHOR_MS: u64 = 60_000;

/// A video that shows nothing for longer than this from its start gets a row that says so, in milliseconds.
pub const LATE_START_MS: u64 = 1000;

/// How frames are chosen, and which of them are left out again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sampling {
    /// Which frames are looked at.
    #[serde(flatten)]
    pub by: SampleBy,
    /// A frame that differs from the last kept one by less is dropped, and that one stands for its time as well.
    ///
    /// 0 keeps all. The measure is the largest mean difference of any of 8 x 8 fields of the picture, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_change: f64,
}

/// Which frames are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum SampleBy {
    /// The first frame of every interval.
    Interval {
        /// Its length in microseconds, so that frame rates can be said as well.
        #[schemars(range(min = 1000, max = 86_400_000_000_i64))]
        every_us: u64,
    },
    /// The first frame of every scene, and one a minute while it lasts.
    Scenes {
        /// How much two neighbouring frames differ where a scene ends, 0 to 1, as ffmpeg's scene score has it.
        #[schemars(range(min = 0.0, max = 1.0))]
        cut: f64,
    },
    /// The frames that the encoder stored whole.
    Keyframes,
}

impl Sampling {
    /// Frames are compared afresh, and segments may begin, at multiples of this many milliseconds.
    pub fn anchor_ms(&self) -> u64 {
        match self.by {
            SampleBy::Interval { every_us } => ANCHOR_MS.max(every_us.div_ceil(1000)),
            SampleBy::Scenes { .. } | SampleBy::Keyframes => ANCHOR_MS,
        }
    }

    /// About how many frames are looked at in so much time.
    pub fn frames_in(&self, span_ms: u64) -> u64 {
        let every_us = match self.by {
            SampleBy::Interval { every_us } => every_us,
            // Films have about so many cuts and keyframes: sizes of jobs, progress and the work that waits follow from it.
            SampleBy::Scenes { .. } | SampleBy::Keyframes => 4_000_000,
        };
        span_ms.saturating_mul(1000).div_ceil(every_us.max(1)).max(1)
    }

    /// What is wrong with the settings, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let by = match self.by {
            SampleBy::Interval { every_us } => (1000..=86_400_000_000).contains(&every_us),
            SampleBy::Scenes { cut } => share(cut),
            SampleBy::Keyframes => true,
        };
        match (by, share(self.min_change)) {
            (true, true) => None,
            (false, _) => Some("has an interval outside of 1 ms to 1 day, or a cut outside of 0 to 1"),
            (_, false) => Some("has a min_change outside of 0 to 1"),
        }
    }
}

impl Default for Sampling {
    /// Every second, near-identical frames dropped.
    fn default() -> Self {
        Self { by: SampleBy::Interval { every_us: 1_000_000 }, min_change: 0.04 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_intervals_move_the_anchors() {
        let every = |every_us| Sampling { by: SampleBy::Interval { every_us }, ..Sampling::default() };
        assert_eq!(every(40_000).anchor_ms(), ANCHOR_MS);
        assert_eq!(every(600_000_000).anchor_ms(), 600_000);
        assert_eq!((every(1_000_000).frames_in(60_000), every(1_000_000).frames_in(0)), (60, 1));
    }

    #[test]
    fn reads_like_the_contract_says() {
        let text = r#"{"by":"interval","every_us":1000000,"min_change":0.04}"#;
        assert_eq!(serde_json::from_str::<Sampling>(text).ok(), Some(Sampling::default()));
        assert_eq!(serde_json::to_string(&Sampling::default()).ok().as_deref(), Some(text));
    }
}
