//! Whether archives can be used, as readiness tells it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captionfleet_proto::chain;
use captionfleet_proto::storage::{Storage, StorageError, StorageErrorKind};
use tokio::time::{sleep, timeout};

use super::Pipeline;
use super::drain::Drain;

/// The readiness condition that appears when an archive cannot be used.
const ARCHIVE: &str = "archive";
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long an archive has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The archive that did not answer the last time.
#[derive(Default)]
pub(super) struct ArchiveWatch {
    away: Mutex<Option<Arc<dyn Storage>>>,
}

impl ArchiveWatch {
    fn set(&self, away: Option<Arc<dyn Storage>>) -> Option<Arc<dyn Storage>> {
        std::mem::replace(&mut *self.away.lock().unwrap_or_else(PoisonError::into_inner), away)
    }

    fn get(&self) -> Option<Arc<dyn Storage>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Pipeline {
    /// A part was stored.
    pub(super) fn archive_takes_parts(&self) {
        self.archive_watch.set(None);
        self.readiness.recovered(ARCHIVE);
    }

    /// An archive cannot be used for a reason that may pass.
    pub(super) fn archive_is_away(&self, archive: &Arc<dyn Storage>, error: &StorageError) {
        // That there is room again is only seen by writing, which whoever holds a finished part goes on trying.
        let is_full = error.kind() == StorageErrorKind::NoSpace;
        self.archive_watch.set((!is_full).then(|| Arc::clone(archive)));
        self.readiness.not_ready(ARCHIVE, chain(error));
    }
}

/// Asks for an archive that is away until it answers or the worker drains: its jobs may be with other workers by then.
pub(super) async fn watch(pipeline: Arc<Pipeline>, drain: Drain) {
    let look = async {
        loop {
            sleep(LOOK_EVERY).await;
            let Some(archive) = pipeline.archive_watch.get() else { continue };
            if matches!(timeout(ANSWER_WITHIN, archive.check()).await, Ok(Ok(())))
                && pipeline.archive_watch.set(None).is_some()
            {
                pipeline.readiness.recovered(ARCHIVE);
            }
        }
    };
    tokio::select! {
        () = drain.soft.cancelled() => {}
        () = look => {}
    }
}
