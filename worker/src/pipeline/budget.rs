//! How much is in hand at a time. Persons have their own share, so that bulk work never keeps them waiting; the lanes for runs
//! have one together.

use std::sync::{Arc, Mutex, PoisonError};

use captionfleet_proto::job::Lane;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::look_ahead::LookAhead;

/// Pictures of a person's request that are read and decoded at a time.
const INTERACTIVE: usize = 4;
/// Room is shared out in pieces of so many bytes.
const PIECE: u64 = 1024;
/// As many as a semaphore can count on any machine.
const MOST_PIECES: u32 = u32::MAX >> 3;

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
    pub(super) decodes: Arc<Semaphore>,
    /// Items handed to the engine.
    pub(super) device: Semaphore,
    /// Pieces of memory for files, from the first byte to the end of their decoding: files may be large, and many.
    room: Arc<Semaphore>,
    /// All of `room`.
    pieces: u32,
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
    /// are read and decoded ahead of it, and their files take at most `bytes` of memory.
    pub(super) fn new(most: usize, bytes: u64, slots: usize, batch: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = slots.max(1);
        // Twice the slots on the device: the next vision batch waits there while the current one decodes.
        let bulk = Budget::new(LookAhead::new(batch, most), bytes, cores, 2 * slots);
        let interactive = Budget::new(LookAhead::new(1, INTERACTIVE), bytes, 1, slots);
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
    fn new(ahead: LookAhead, bytes: u64, decodes: usize, places: usize) -> Self {
        let width = places + ahead.pictures();
        let pieces = u32::try_from(bytes / PIECE).unwrap_or(u32::MAX).clamp(1, MOST_PIECES);
        Self {
            room: Arc::new(Semaphore::new(pieces as usize)),
            pieces,
            pictures: Semaphore::new(width),
            decodes: Arc::new(Semaphore::new(decodes)),
            device: Semaphore::new(places),
            width,
            places,
            pace: Mutex::new(Pace { ahead, pictures: width, busy: 0.0, finished: 0 }),
        }
    }

    /// Waits for room for a file of at most `bytes`; one that is larger than all room gets all of it.
    pub(super) async fn room(&self, bytes: u64) -> Room {
        let pieces = pieces(bytes).min(self.pieces);
        let permit = Arc::clone(&self.room).acquire_many_owned(pieces).await;
        Room { permit: permit.expect("budgets are never closed"), bytes }
    }

    /// Waits for a turn to decode. It is held by the decoding itself, which goes on when nobody waits for it any more.
    pub(super) async fn turn_to_decode(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.decodes).acquire_owned().await.expect("budgets are never closed")
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

/// Room for one file.
pub(super) struct Room {
    permit: OwnedSemaphorePermit,
    bytes: u64,
}

impl Room {
    /// The largest file that it is for.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what a file of `bytes` does not need.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let spare = self.permit.num_permits().saturating_sub(pieces(bytes) as usize);
        drop(self.permit.split(spare));
        self.bytes = bytes;
    }
}

fn pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX).max(1)
}

/// Waits for a permit.
pub(super) async fn permit(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("budgets are never closed")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::FutureExt as _;

    use super::{Budget, LookAhead};

    #[test]
    fn files_in_memory_are_weighed() {
        let (small, large, room) = (1 << 20, 64 << 20, 100 << 20);
        let budget = Budget::new(LookAhead::new(4, 50), room, 1, 8);
        let take = |bytes| budget.room(bytes).now_or_never();
        let mut first = take(large).unwrap();
        assert!(take(large).is_none(), "two of the largest do not fit");
        let others: Vec<_> = std::iter::from_fn(|| take(small)).take(1000).collect();
        assert_eq!(others.len(), 36);
        first.shrink_to(1);
        assert_eq!(std::iter::from_fn(|| take(small)).take(1000).collect::<Vec<_>>().len(), 63);
        drop((first, others));
        assert!(take(room * 5).is_some(), "one that is larger than all room is not waited for in vain");
        assert!(take(u64::MAX).is_some());
    }

    #[test]
    fn permits_follow_the_pace_and_none_is_lost() {
        let budget = Budget::new(LookAhead::new(4, 50), 1 << 30, 1, 8);
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
