//! How much is in hand at a time. Persons have their own share, so that bulk work never keeps them waiting; the lanes for runs
//! have one together.

use std::sync::{Mutex, PoisonError};

use captionfleet_proto::job::Lane;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::look_ahead::LookAhead;

/// Pictures of a person's request that are read and decoded at a time.
const INTERACTIVE: usize = 4;

/// The shares of runs and of persons.
pub(super) struct Budgets {
    bulk: Budget,
    interactive: Budget,
    /// Videos being decoded, of all lanes: each takes half of the cores.
    pub(super) decoders: Semaphore,
}

/// How much is in hand. Waiters are served first come, first served: older jobs finish first.
pub(super) struct Budget {
    /// Items with a picture in memory, from the first byte to the caption.
    pub(super) pictures: Semaphore,
    /// Pictures being decoded: each may be large, and each takes a core.
    pub(super) decodes: Semaphore,
    /// Items handed to the engine.
    pub(super) device: Semaphore,
    /// The most that `pictures` can be.
    pub(super) width: usize,
    /// Places in the engine.
    places: usize,
    pace: Mutex<Pace>,
}

/// Measured times, and what was made of them.
struct Pace {
    ahead: LookAhead,
    /// Permits of `pictures`, taken ones included.
    pictures: usize,
    /// The device's busy seconds when they last grew, and pictures finished since: a batch ends all at once.
    busy: f64,
    finished: usize,
}

impl Budgets {
    /// Shares for an engine of `slots` batch slots that sees `batch` pictures at a time; at most `most` bulk pictures
    /// are read and decoded ahead of it.
    pub(super) fn new(most: usize, slots: usize, batch: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = slots.max(1);
        // Twice the slots on the device: the next vision batch waits there while the current one decodes.
        let bulk = Budget::new(LookAhead::new(batch, most), cores, 2 * slots);
        let interactive = Budget::new(LookAhead::new(1, INTERACTIVE), 1, slots);
        Self { bulk, interactive, decoders: Semaphore::new(2) }
    }

    /// The lane's share.
    pub(super) fn of(&self, lane: Lane) -> &Budget {
        match lane {
            Lane::Bulk | Lane::Bulk2 => &self.bulk,
            Lane::Interactive => &self.interactive,
        }
    }
}

impl Budget {
    fn new(ahead: LookAhead, decodes: usize, places: usize) -> Self {
        let width = places + ahead.pictures();
        Self {
            pictures: Semaphore::new(width),
            decodes: Semaphore::new(decodes),
            device: Semaphore::new(places),
            width,
            places,
            pace: Mutex::new(Pace { ahead, pictures: width, busy: 0.0, finished: 0 }),
        }
    }

    /// A picture took so many seconds to read and decode, waiting for a turn not counted.
    pub(super) fn prepared(&self, seconds: f64) {
        self.with_pace(|pace| pace.ahead.prepared(seconds));
    }

    /// The device has finished a picture, and has computed for `busy` seconds in its life. Returns how many pictures are
    /// kept ahead of it from now on.
    pub(super) fn finished(&self, busy: f64) -> usize {
        self.with_pace(|pace| {
            pace.finished += 1;
            if busy > pace.busy {
                pace.ahead.computed(busy - pace.busy, pace.finished);
                (pace.busy, pace.finished) = (busy, 0);
            }
            let ahead = pace.ahead.pictures();
            self.resize(pace, self.places + ahead);
            ahead
        })
    }

    fn resize(&self, pace: &mut Pace, wanted: usize) {
        if wanted > pace.pictures {
            self.pictures.add_permits(wanted - pace.pictures);
            pace.pictures = wanted;
        } else {
            // Permits in use are taken back the next time round, when they have come home.
            pace.pictures -= self.pictures.forget_permits(pace.pictures - wanted);
        }
    }

    fn with_pace<T>(&self, change: impl FnOnce(&mut Pace) -> T) -> T {
        change(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Waits for a permit.
pub(super) async fn permit(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("budgets are never closed")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Budget, LookAhead};

    #[test]
    fn permits_follow_the_pace_and_none_is_lost() {
        let budget = Budget::new(LookAhead::new(4, 50), 1, 8);
        assert_eq!(budget.pictures.available_permits(), 58);
        let taken = budget.pictures.try_acquire_many(55).unwrap();
        let mut busy = 0.0;
        let mut finish = |host: f64| {
            busy += 1.0;
            budget.prepared(host);
            budget.finished(busy)
        };
        for _ in 0..200 {
            assert_eq!(finish(0.1), 5);
        }
        assert_eq!(budget.pictures.available_permits(), 0, "the free ones are gone at once");
        drop(taken);
        finish(0.1);
        assert_eq!(budget.pictures.available_permits(), 13, "the taken ones when they came home");
        for _ in 0..200 {
            finish(100.0);
        }
        assert_eq!(budget.pictures.available_permits(), 58);
    }
}
