//! What is left of the jobs of dead letters. Who forgets an item of a job answers it under the job's id, and the table of the job's run
//! says which job owes the others.

use crate::archive::{self, ArchiveError};
use captionfleet_proto::chain;
use captionfleet_proto::job::{Job, JobId, JobItem, JobKind, RunId};
use captionfleet_proto::layout;
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
    /// Some of its items are owed by this job.
    Some(Box<Job>),
    /// All of its items have their rows.
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
        if !table.contains_key(&job.id) {
            return Ok(Left::All);
        }
        let archive = self.stores.archive(&job.archive).await.map_err(|error| chain(&error))?;
        let mut looked_at = HashSet::new();
        for item in &caption.items {
            let owes = |(_, items): &(&JobId, &HashSet<_>)| items.contains(&key_of(item));
            let Some((id, items)) = table.iter().find(owes).filter(|(id, _)| looked_at.insert(*id)) else {
                continue;
            };
            let part = layout::part(&job.run, id);
            if archive::is_there(&*archive, &part).await.map_err(|error| chain(&error))? {
                continue;
            }
            if *id == job.id && caption.items.iter().all(|item| items.contains(&key_of(item))) {
                return Ok(Left::All);
            }
            let mut caption = caption.clone();
            caption.items.retain(|item| items.contains(&key_of(item)));
            let job = Job { id: id.clone(), kind: JobKind::Caption(caption), ..job.clone() };
            return Ok(Left::Some(Box::new(job)));
        }
        Ok(Left::Nothing)
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
            table.entry(planned.job).or_default().insert(key_of(&planned.item));
        }
        Ok(table)
    }
}

fn key_of(item: &JobItem) -> (ItemUri, Option<u64>) {
    (item.uri.clone(), item.frame_ms)
}

/// Where there is nothing, nothing was forgotten.
fn is_nowhere(kind: StorageErrorKind) -> bool {
    matches!(kind, StorageErrorKind::NotFound | StorageErrorKind::NoSuchBucket)
}
