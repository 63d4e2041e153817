//! Whether there is room for copies of videos, as readiness tells it.

use std::sync::Arc;
use std::time::Duration;

use captionfleet_proto::chain;
use captionfleet_proto::storage::StorageError;
use tokio::time::sleep;

use super::Pipeline;
use super::drain::Drain;

/// The readiness condition that appears when there is no room for a copy of a video.
const SPOOL: &str = "spool";
const LOOK_EVERY: Duration = Duration::from_secs(5);

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

/// Looks until the worker drains: the video's job may be with another worker by then, and no other one come.
pub(super) async fn watch(pipeline: Arc<Pipeline>, drain: Drain) {
    let look = async {
        loop {
            sleep(LOOK_EVERY).await;
            pipeline.look_at_spool().await;
        }
    };
    tokio::select! {
        () = drain.soft.cancelled() => {}
        () = look => {}
    }
}
