//! How much is in hand at a time. Each lane has its own share, so that bulk work never keeps a person waiting.

use captionfleet_proto::job::Lane;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The shares of both lanes.
pub(super) struct Budgets {
    bulk: Budget,
    interactive: Budget,
}

/// How much of one lane is in hand. Waiters are served first come, first served: older jobs finish first.
pub(super) struct Budget {
    /// Items with a picture in memory, from the first byte to the caption.
    pub(super) pictures: Semaphore,
    /// Items being read.
    pub(super) fetches: Semaphore,
    /// Pictures being decoded: each may be large, and each takes a core.
    pub(super) decodes: Semaphore,
    /// Items handed to the engine.
    pub(super) device: Semaphore,
    /// The size of `pictures`.
    pub(super) width: usize,
}

impl Budgets {
    /// Shares for an engine of `slots` batch slots.
    pub(super) fn new(fetch_concurrency: usize, slots: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (fetches, slots) = (fetch_concurrency.max(1), slots.max(1));
        // Twice the slots on the device: the next vision batch waits there while the current one decodes.
        let bulk = Budget::new(fetches, cores, 2 * slots, fetches + 4 * slots);
        let interactive = Budget::new(4, 1, slots, 4 + slots);
        Self { bulk, interactive }
    }

    /// The lane's share.
    pub(super) fn of(&self, lane: Lane) -> &Budget {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Interactive => &self.interactive,
        }
    }
}

impl Budget {
    fn new(fetches: usize, decodes: usize, device: usize, width: usize) -> Self {
        Self {
            pictures: Semaphore::new(width),
            fetches: Semaphore::new(fetches),
            decodes: Semaphore::new(decodes),
            device: Semaphore::new(device),
            width,
        }
    }
}

/// Waits for a permit.
pub(super) async fn permit(semaphore: &Semaphore) -> SemaphorePermit<'_> {
    semaphore.acquire().await.expect("budgets are never closed")
}
