//! Which of the frames that were looked at are kept. Pure.

use captionfleet_proto::job::Sampling;

use super::Signature;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It gets a row.
    Kept,
    /// It is near-identical to the last kept one, which stands for its time as well.
    Dropped,
}

/// Compares every frame with the last kept one, afresh from every anchor on.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    last: Option<(u64, Signature)>,
    /// The frames that each kept one stands for.
    counts: Vec<u32>,
}

impl Sampler {
    /// Has seen nothing yet.
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, last: None, counts: Vec::new() }
    }

    /// Decides about the next frame, at `ms`.
    pub fn see(&mut self, ms: u64, signature: Signature) -> Seen {
        let anchor = ms / self.sampling.anchor_ms();
        if let (Some((at, last)), Some(count)) = (&self.last, self.counts.last_mut())
            && *at == anchor
            && last.distance(&signature) < self.sampling.min_change
        {
            *count += 1;
            return Seen::Dropped;
        }
        self.last = Some((anchor, signature));
        self.counts.push(1);
        Seen::Kept
    }

    /// How many frames were kept so far.
    pub fn kept(&self) -> usize {
        self.counts.len()
    }

    /// How many frames each kept one stands for, in order.
    pub fn counts(self) -> Vec<u32> {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::pixels::Pixels;
    use super::*;
    use crate::video::Frame;

    fn grey(value: u8) -> Signature {
        Frame { ms: 0, width: 1, height: 1, pixels: Pixels::Rgb, bytes: vec![value; 3] }.signature()
    }

    fn kept(frames: &[(u64, u8)], min_change: f64) -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { min_change, ..Sampling::default() });
        for (ms, value) in frames {
            sampler.see(*ms, grey(*value));
        }
        sampler.counts()
    }

    #[test]
    fn a_slow_change_is_kept_in_the_end() {
        let drift: Vec<_> = (0..40).map(|step| (step * 1000, step as u8)).collect();
        // 4 % of 255 is a little more than 10 levels, always measured from the last kept frame.
        assert_eq!(kept(&drift, 0.04), [11, 11, 11, 7]);
    }

    #[test]
    fn every_minute_begins_afresh() {
        let still: Vec<_> = (58..122).map(|second| (second * 1000, 9)).collect();
        assert_eq!(kept(&still, 0.04), [2, 60, 2]);
        assert_eq!(kept(&still[..3], 0.0), [1, 1, 1]);
    }
}
