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
    /// Memory for files, from the first byte to the end of their decoding: files may be large, and many.
    files: Memory,
    /// Memory for what is being decoded, apart from that of files: who has some waits for nothing else, and gives it back.
    pixels: Memory,
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
    /// Shares for an engine of `slots` batch slots that sees `batch` pictures at a time. At most `most` bulk pictures are read and
    /// decoded ahead of it. All pictures together take at most `bytes` of memory: a quarter are files, half is being decoded, and the
    /// rest are pictures that wait for the device, each of `prepared` bytes.
    pub(super) fn new(most: usize, bytes: u64, prepared: u64, slots: usize, batch: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = slots.max(1);
        let waiting = usize::try_from(bytes / 4 / prepared.max(1)).unwrap_or(usize::MAX);
        let most = most.min(waiting.saturating_sub(3 * slots + INTERACTIVE)).max(1);
        let persons = bytes / 4;
        // Twice the slots on the device: the next vision batch waits there while the current one decodes.
        let bulk = Budget::new(LookAhead::new(batch, most), bytes - persons, cores, 2 * slots);
        let interactive = Budget::new(LookAhead::new(1, INTERACTIVE), persons, 1, slots);
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
        Self {
            files: Memory::new(bytes / 4),
            pixels: Memory::new(bytes / 2),
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
        self.files.take(bytes).await
    }

    /// Waits for room to decode a picture that takes so many bytes meanwhile; one that takes more than all room gets all of it.
    pub(super) async fn room_to_decode(&self, bytes: u64) -> Room {
        self.pixels.take(bytes).await
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

/// Memory that is shared out, first come, first served.
struct Memory {
    pieces: Arc<Semaphore>,
    /// Free ones and taken ones.
    all: u32,
}

impl Memory {
    fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / PIECE).unwrap_or(u32::MAX).clamp(1, MOST_PIECES);
        Self { pieces: Arc::new(Semaphore::new(all as usize)), all }
    }

    async fn take(&self, bytes: u64) -> Room {
        let permit = Arc::clone(&self.pieces).acquire_many_owned(pieces(bytes).min(self.all)).await;
        Room { permit: permit.expect("budgets are never closed"), bytes }
    }
}

/// Room for one file, or for its pixels.
pub(super) struct Room {
    permit: OwnedSemaphorePermit,
    bytes: u64,
}

impl Room {
    /// The most that it is for.
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

    use super::{Budget, Budgets, LookAhead, PIECE};

    #[test]
    fn files_in_memory_are_weighed() {
        let (small, large, room) = (1 << 20, 64 << 20, 100 << 20);
        let budget = Budget::new(LookAhead::new(4, 50), 4 * room, 1, 8);
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
    fn pixels_are_weighed_and_do_not_wait_for_files() {
        let budget = Budget::new(LookAhead::new(4, 50), 256 << 20, 8, 8);
        let _files = budget.room(64 << 20).now_or_never().unwrap();
        let take = |bytes| budget.room_to_decode(bytes).now_or_never();
        let mut camera: Vec<_> = std::iter::from_fn(|| take(54_000_000)).take(100).collect();
        assert_eq!(camera.len(), 2);
        assert!(take(600_000_000).is_none());
        camera.clear();
        assert!(take(600_000_000).is_some(), "a picture that is larger than all room is decoded alone");
    }

    #[test]
    fn everybody_s_pictures_together_stay_within_the_memory() {
        let (bytes, prepared) = (320 << 20, 500_000);
        let budgets = Budgets::new(96, bytes, prepared, 16, 4);
        let lanes = [&budgets.bulk, &budgets.interactive];
        let shared: u64 = lanes.iter().map(|lane| u64::from(lane.files.all + lane.pixels.all) * PIECE).sum();
        let waiting: usize = lanes.iter().map(|lane| lane.width).sum();
        assert!(shared + waiting as u64 * prepared <= bytes, "{shared} {waiting}");
        assert_eq!(budgets.bulk.width, 32 + 96, "there is room for all that are wanted");
        let little = Budgets::new(96, 64 << 20, prepared, 4, 4);
        assert_eq!(little.bulk.width, 8 + 17, "fewer wait where there is less");
        assert_eq!(Budgets::new(96, 0, prepared, 4, 4).bulk.width, 8 + 1, "but one always may");
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
