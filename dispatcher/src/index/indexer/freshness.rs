//! How far an index is behind the parts.

use captionfleet_index::PartStamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What an indexer last saw, for whoever watches it. Clones share it.
#[derive(Debug, Clone)]
pub struct Freshness {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// The index has every part that was there at this time.
    complete: Instant,
    /// Parts that it lacks, and when they were first seen.
    since: HashMap<PartStamp, Instant>,
    /// A few keys of those that were first seen since somebody asked.
    newcomers: Vec<String>,
}

/// Newcomers that are remembered.
const REMEMBERED: usize = 2;

impl Default for Freshness {
    fn default() -> Self {
        let seen = Seen { complete: Instant::now(), since: HashMap::new(), newcomers: Vec::new() };
        Self { seen: Arc::new(Mutex::new(seen)) }
    }
}

impl Freshness {
    /// How long the oldest part that is not indexed has been there. While nobody can look, it is how long nobody could.
    pub fn lag(&self) -> Duration {
        self.seen().complete.elapsed()
    }

    /// Keys of parts that have appeared since this was last asked for, two of them at the most.
    pub fn newcomers(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().newcomers)
    }

    /// The parts that the index lacked at `listed`. In a long run some are missing at every look, each for a short while: what
    /// counts is since when the oldest of them is.
    pub(super) fn note<'a>(&self, listed: Instant, missing: impl Iterator<Item = &'a PartStamp>) {
        let mut seen = self.seen();
        let mut before = std::mem::take(&mut seen.since);
        for part in missing {
            let since = before.remove(part);
            if since.is_none() && seen.newcomers.len() < REMEMBERED {
                seen.newcomers.push(part.key.clone());
            }
            seen.since.insert(part.clone(), since.unwrap_or(listed));
        }
        seen.complete = seen.since.values().min().copied().unwrap_or(listed);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Freshness;
    use captionfleet_index::PartStamp;
    use std::time::{Duration, Instant};

    fn part(number: usize) -> PartStamp {
        PartStamp { key: format!("parts/r/{number}.parquet"), size: 1, etag: None }
    }

    /// What the index was complete as of, in seconds after the first look.
    fn complete(freshness: &Freshness, first: Instant) -> u64 {
        freshness.seen().complete.duration_since(first).as_secs()
    }

    #[test]
    fn parts_that_keep_coming_make_no_index_old() {
        let (freshness, first) = (Freshness::default(), Instant::now());
        for look in 0..1000 {
            // Three are missing whenever one looks, and every one of them is taken in soon.
            let missing = [part(look), part(look + 1), part(look + 2)];
            freshness.note(first + Duration::from_secs(look as u64), missing.iter());
        }
        // Part 999 was first seen at look 997.
        assert_eq!(complete(&freshness, first), 997);
    }

    #[test]
    fn a_part_that_stays_behind_ages() {
        let (freshness, first) = (Freshness::default(), Instant::now());
        let at = |second| first + Duration::from_secs(second);
        freshness.note(at(10), std::iter::empty());
        assert!(freshness.newcomers().is_empty());
        freshness.note(at(20), [part(1)].iter());
        freshness.note(at(500), [part(1), part(2)].iter());
        assert_eq!(complete(&freshness, first), 20);
        assert_eq!(freshness.newcomers(), [part(1).key, part(2).key]);
        freshness.note(at(510), [part(2)].iter());
        assert_eq!(complete(&freshness, first), 500);
        // The same name with other bytes is another part.
        freshness.note(at(520), [PartStamp { size: 2, ..part(2) }].iter());
        assert_eq!(complete(&freshness, first), 520);
        freshness.note(at(530), std::iter::empty());
        assert_eq!(complete(&freshness, first), 530);
    }
}
