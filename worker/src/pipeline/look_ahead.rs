//! How far reading and decoding run ahead of the device: as far as measured times ask for. A pure rule.

/// How much a new measurement counts beside all earlier ones.
const WEIGHT: f64 = 0.1;
/// Times vary: so many times the mean is kept in hand.
const MARGIN: f64 = 2.0;

/// Measured times of one lane, and the number of pictures in hand that follows.
///
/// While the device takes one picture, each picture on its way needs `host / device` such turns to get ready (Little's
/// law). One vision batch more is kept, because the device takes pictures in batches.
#[derive(Debug)]
pub(super) struct LookAhead {
    /// Seconds from the start of reading to a picture that is ready, waiting for a turn not counted.
    host: Option<f64>,
    /// Seconds of the device for one picture, pauses not counted: otherwise a device that starves would look slow, and
    /// would be given even less.
    device: Option<f64>,
    batch: usize,
    most: usize,
}

impl LookAhead {
    /// For a device that takes `batch` pictures at a time; at most `most` pictures are ever ahead.
    pub(super) fn new(batch: usize, most: usize) -> Self {
        let most = most.max(1);
        Self { host: None, device: None, batch: batch.clamp(1, most), most }
    }

    /// A picture took so many seconds to read and decode.
    pub(super) fn prepared(&mut self, seconds: f64) {
        self.host = Some(blend(self.host, seconds));
    }

    /// The device computed for so many seconds and finished so many pictures.
    pub(super) fn computed(&mut self, seconds: f64, pictures: usize) {
        if pictures > 0 && seconds > 0.0 {
            self.device = Some(blend(self.device, seconds / pictures as f64));
        }
    }

    /// Pictures to have on their way. As many as are allowed until both times are known: the first batch should be full.
    pub(super) fn pictures(&self) -> usize {
        let (Some(host), Some(device)) = (self.host, self.device) else { return self.most };
        let turns = (MARGIN * host / device).ceil();
        // A float beyond the integers becomes the largest of them.
        self.batch.saturating_add(turns as usize).min(self.most)
    }
}

fn blend(mean: Option<f64>, new: f64) -> f64 {
    mean.map_or(new, |mean| mean + WEIGHT * (new - mean))
}

#[cfg(test)]
mod tests {
    use super::LookAhead;

    fn after(host: f64, device: f64) -> usize {
        let mut ahead = LookAhead::new(8, 96);
        for _ in 0..100 {
            ahead.prepared(host);
            ahead.computed(device, 1);
        }
        ahead.pictures()
    }

    #[test]
    fn a_slow_device_needs_little_more_than_its_next_batch() {
        assert_eq!(after(0.05, 2.0), 9);
    }

    #[test]
    fn slow_storage_needs_many() {
        assert_eq!(after(0.4, 0.02), 48);
        assert_eq!(after(10.0, 0.001), 96, "but never more than allowed");
    }

    #[test]
    fn before_anything_is_known_all_may_come() {
        let mut ahead = LookAhead::new(8, 96);
        assert_eq!(ahead.pictures(), 96);
        ahead.prepared(1.0);
        assert_eq!(ahead.pictures(), 96);
        ahead.computed(0.0, 0);
        assert_eq!(ahead.pictures(), 96, "nothing was measured");
    }

    #[test]
    fn it_follows_a_store_that_becomes_slow() {
        let mut ahead = LookAhead::new(8, 96);
        for _ in 0..50 {
            ahead.prepared(0.01);
            ahead.computed(0.1, 1);
        }
        let before = ahead.pictures();
        for _ in 0..50 {
            ahead.prepared(2.0);
        }
        assert!(before < 12 && ahead.pictures() > 40, "{before} {}", ahead.pictures());
    }
}
