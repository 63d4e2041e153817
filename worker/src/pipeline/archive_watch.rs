//! Whether archives can be used, as readiness tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use captionfleet_proto::chain;
use captionfleet_proto::storage::{Storage, StorageError, StorageErrorKind};
use futures::future::join_all;
use tokio::time::timeout;

use super::Pipeline;

/// The readiness condition that appears when an archive cannot be used.
const ARCHIVE: &str = "archive";
/// How long an archive has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long it is believed that an archive is full. Whoever holds a finished part tries to write it more often.
const FULL_FOR: Duration = Duration::from_secs(60);
/// So many are looked at; when the last of them is back, others are as likely to be.
const MOST: usize = 32;

/// The archives that could not be used the last time, by their places.
#[derive(Default)]
pub(super) struct ArchiveWatch {
    away: Mutex<BTreeMap<String, Away>>,
}

struct Away {
    archive: Arc<dyn Storage>,
    /// That there is room again is only seen by writing: until then nothing is learned by looking.
    full_until: Option<Instant>,
    reason: String,
}

impl Pipeline {
    /// A part was stored.
    pub(super) fn archive_takes_parts(&self, archive: &dyn Storage) {
        self.archives_away(|away| drop(away.remove(&archive.location())));
    }

    /// An archive cannot be used for a reason that may pass.
    pub(super) fn archive_is_away(&self, archive: &Arc<dyn Storage>, error: &StorageError) {
        let place = archive.location();
        let full_until = (error.kind() == StorageErrorKind::NoSpace).then(|| Instant::now() + FULL_FOR);
        let entry = Away { archive: Arc::clone(archive), full_until, reason: chain(error) };
        self.archives_away(|away| {
            if away.len() < MOST || away.contains_key(&place) {
                away.insert(place, entry);
            }
        });
    }

    /// Asks the archives that are away whether they can be used again. One that was full can where nobody here writes to it any
    /// more: the part may have gone to another worker.
    pub(super) async fn look_at_archives(&self, now: Instant) {
        let away: Vec<_> = {
            let away = self.archive_watch.away.lock().unwrap_or_else(PoisonError::into_inner);
            let looked_at = away.values().filter(|away| away.full_until.is_none_or(|until| until <= now));
            looked_at.map(|away| Arc::clone(&away.archive)).collect()
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
