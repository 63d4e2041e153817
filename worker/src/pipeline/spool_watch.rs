//! Whether there is room for copies of videos, as readiness tells it.

use captionfleet_proto::chain;
use captionfleet_proto::storage::StorageError;

use super::Pipeline;

/// The readiness condition that appears when there is no room for a copy of a video.
const SPOOL: &str = "spool";

impl Pipeline {
    /// A video was copied.
    pub(super) fn spool_takes_copies(&self) {
        self.readiness.recovered(SPOOL);
    }

    /// The disk of the copies has no room for a video.
    pub(super) fn spool_is_full(&self, error: &StorageError) {
        self.readiness.not_ready(SPOOL, chain(error));
    }

    /// Looks for room while there is none.
    pub(super) async fn look_at_spool(&self) {
        if !self.readiness.holds(SPOOL) && self.spool.has_room().await {
            self.readiness.recovered(SPOOL);
        }
    }
}
