//! Whether archives can be used, as readiness tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captionfleet_proto::chain;
use captionfleet_proto::storage::{Storage, StorageError, StorageErrorKind};
use futures::future::join_all;
use tokio::time::timeout;

use super::Pipeline;

/// The readiness condition that appears when an archive cannot be used.
const ARCHIVE: &str = "archive";
/// How long an archive has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// So many are looked at; when the last of them is back, others are as likely to be.
const MOST: usize = 32;

/// The archives that could not be used the last time, by their places.
#[derive(Default)]
pub(super) struct ArchiveWatch {
    away: Mutex<BTreeMap<String, Away>>,
}

struct Away {
    archive: Arc<dyn Storage>,
    is_full: bool,
    reason: String,
}

impl Pipeline {
    /// A part was stored.
    pub(super) fn archive_takes_parts(&self, archive: &dyn Storage) {
        self.archives_away(|away| drop(away.remove(&archive.location())));
    }

    /// An archive cannot be used for a reason that may pass.
    pub(super) fn archive_is_away(&self, archive: &Arc<dyn Storage>, error: &StorageError) {
        let (place, is_full) = (archive.location(), error.kind() == StorageErrorKind::NoSpace);
        let entry = Away { archive: Arc::clone(archive), is_full, reason: chain(error) };
        self.archives_away(|away| {
            if away.len() < MOST || away.contains_key(&place) {
                away.insert(place, entry);
            }
        });
    }

    /// Asks the archives that are away whether they can be used again.
    pub(super) async fn look_at_archives(&self) {
        let away: Vec<_> = {
            let away = self.archive_watch.away.lock().unwrap_or_else(PoisonError::into_inner);
            // That there is room again is only seen by writing, which whoever holds a finished part goes on trying.
            away.values().filter(|away| !away.is_full).map(|away| Arc::clone(&away.archive)).collect()
        };
        let answers = |archive: Arc<dyn Storage>| async move {
            match timeout(ANSWER_WITHIN, archive.check()).await {
                Ok(Ok(())) => Some(archive),
                // A refusal is an answer: not everybody may list.
                Ok(Err(error)) if !error.is_outage() => Some(archive),
                _ => None,
            }
        };
        for archive in join_all(away.into_iter().map(answers)).await.into_iter().flatten() {
            self.archive_takes_parts(&*archive);
        }
    }

    fn archives_away(&self, change: impl FnOnce(&mut BTreeMap<String, Away>)) {
        let mut away = self.archive_watch.away.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut away);
        match away.values().next() {
            Some(first) => self.readiness.not_ready(ARCHIVE, first.reason.clone()),
            None => self.readiness.recovered(ARCHIVE),
        }
    }
}
