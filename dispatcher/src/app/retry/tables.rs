//! What is left of the jobs of dead letters: who forgets an item of a job takes it out of the table of the job's run.

use crate::archive::{self, ArchiveError};
use captionfleet_proto::chain;
use captionfleet_proto::job::{Job, JobId, JobKind, RunId};
use captionfleet_proto::storage::{StorageErrorKind, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Pictures and segments of films, by where they begin, of each job.
type Table = HashMap<JobId, HashSet<(ItemUri, Option<u64>)>>;

/// What is left of a job.
pub(super) enum Left {
    /// It is as it was.
    All,
    /// Fewer items.
    Some(Box<Job>),
    /// All of its items are answered for by other jobs.
    Nothing,
}

/// The tables of runs, each read once.
pub(super) struct Tables {
    stores: Arc<Stores>,
    /// Why a table cannot be read is kept, too: others of its jobs come.
    read: HashMap<(ArchiveUri, RunId), Result<Table, String>>,
}

impl Tables {
    pub(super) fn new(stores: Arc<Stores>) -> Self {
        Self { stores, read: HashMap::new() }
    }

    /// What is left of `job`, or why that cannot be told.
    pub(super) async fn left_of(&mut self, job: &Job) -> Result<Left, String> {
        let JobKind::Caption(caption) = &job.kind else { return Ok(Left::All) };
        let key = (job.archive.clone(), job.run.clone());
        if !self.read.contains_key(&key) {
            let read = self.table(&job.archive, &job.run).await.map_err(|error| chain(&error));
            self.read.insert(key.clone(), read);
        }
        let table = self.read[&key].as_ref().map_err(Clone::clone)?;
        // Other programs publish jobs without a table.
        let Some(planned) = table.get(&job.id) else { return Ok(Left::All) };
        let mut caption = caption.clone();
        let before = caption.items.len();
        caption.items.retain(|item| planned.contains(&(item.uri.clone(), item.frame_ms)));
        Ok(match caption.items.len() {
            0 => Left::Nothing,
            left if left == before => Left::All,
            _ => Left::Some(Box::new(Job { kind: JobKind::Caption(caption), ..job.clone() })),
        })
    }

    async fn table(&self, archive: &ArchiveUri, run: &RunId) -> Result<Table, ArchiveError> {
        let archive = self.stores.archive(archive).await?;
        let manifest = match archive::manifest(&*archive, run).await {
            Ok(manifest) => manifest,
            Err(ArchiveError::Storage(error)) if is_nowhere(error.kind()) => return Ok(Table::new()),
            Err(error) => return Err(error),
        };
        let mut table = Table::new();
        for planned in archive::items(&*archive, &manifest).await? {
            let item = (planned.item.uri, planned.item.frame_ms);
            table.entry(planned.job).or_default().insert(item);
        }
        Ok(table)
    }
}

/// Where there is nothing, nothing was forgotten.
fn is_nowhere(kind: StorageErrorKind) -> bool {
    matches!(kind, StorageErrorKind::NotFound | StorageErrorKind::NoSuchBucket)
}
