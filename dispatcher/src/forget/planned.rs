//! What is planned of items and not done: it is answered here, so that no worker looks at them.

use super::Wanted;
use crate::archive::{self, ArchiveError};
use crate::submission::unseen_row;
use anyhow::Context as _;
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::{PlannedItem, RunManifest, read_items, write_items};
use captionfleet_proto::rows::{EmbeddingShape, FORGOTTEN, Row, Status, write_part};
use captionfleet_proto::storage::{PutMode, Storage};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Said in rows of forgotten items, for people.
pub(super) const REMOVED: &str = "removed from the archive on request";

/// A run that is not complete, and its planned items of jobs without a part.
pub(super) struct Unfinished {
    pub(super) manifest: RunManifest,
    /// Those that are to be forgotten.
    pub(super) items: Vec<PlannedItem>,
    /// Jobs of these with other items beside them.
    mixed: BTreeSet<JobId>,
    /// How many jobs the table of items has.
    jobs: u64,
}

impl Unfinished {
    /// The jobs that are answered: of a job with other items each forgotten one becomes a job of its own.
    pub(super) fn answered(&self) -> BTreeMap<JobId, Vec<&PlannedItem>> {
        let mut jobs: BTreeMap<JobId, Vec<&PlannedItem>> = BTreeMap::new();
        for planned in &self.items {
            jobs.entry(self.job_of(planned)).or_default().push(planned);
        }
        jobs
    }

    /// The job of an item that is forgotten. It depends on nothing but the item, so that a second try makes the same.
    fn job_of(&self, planned: &PlannedItem) -> JobId {
        if !self.mixed.contains(&planned.job) {
            return planned.job.clone();
        }
        let hash = self.manifest.prompt_hash_of(&planned.item);
        Job::deterministic_id(&self.manifest.run, planned.ordinal, std::slice::from_ref(&planned.item), &hash)
    }

    /// Answers them. The rows of a part stand in the order of its job's items, those of a run in the order of its table.
    pub(super) async fn answer(&self, archive: &dyn Storage, shape: EmbeddingShape) -> anyhow::Result<()> {
        let run = &self.manifest.run;
        if !self.mixed.is_empty() {
            // Counted from the table, not from what the manifest says: this may be the second try. It is written first, because a run
            // with fewer jobs than parts would count as complete.
            let parted = self.items.iter().filter(|planned| self.mixed.contains(&planned.job)).count() as u64;
            let manifest = RunManifest { jobs: self.jobs + parted, ..self.manifest.clone() };
            let bytes = codec::encode_manifest(&manifest).context("write the run's manifest anew")?;
            archive.put(&layout::run_manifest(run), bytes, PutMode::Overwrite).await?;
        }
        for (job, items) in self.answered() {
            let rows: Vec<Row> = items.into_iter().map(|planned| self.row(planned, &job)).collect();
            let part = write_part(&rows, shape).context("write the rows of items that are forgotten")?;
            archive.put(&layout::part(run, &job), part, PutMode::Overwrite).await?;
        }
        if !self.mixed.is_empty() {
            self.part_jobs(archive).await?;
        }
        for job in self.items.iter().map(|planned| &planned.job).collect::<BTreeSet<_>>() {
            archive.delete(&layout::unfinished(run, job)).await?;
        }
        Ok(())
    }

    fn row(&self, planned: &PlannedItem, job: &JobId) -> Row {
        let PlannedItem { item, .. } = planned;
        Row {
            sha256: item.sha256.clone(),
            etag: item.etag.clone(),
            ..unseen_row(&self.manifest, item, job, (Status::Skipped, FORGOTTEN, REMOVED))
        }
    }

    /// Writes the table of the run's items anew, in which those of mixed jobs have jobs of their own.
    async fn part_jobs(&self, archive: &dyn Storage) -> anyhow::Result<()> {
        let parted: BTreeSet<u64> = self
            .items
            .iter()
            .filter(|planned| self.mixed.contains(&planned.job))
            .map(|planned| planned.ordinal)
            .collect();
        for number in 0..self.manifest.item_files {
            let key = layout::run_items(&self.manifest.run, number);
            let mut items = read_items(archive.get(&key, archive::TABLE_BYTES).await?.bytes)
                .with_context(|| format!("{key}: this table of items cannot be read"))?;
            let ours = items.iter_mut().filter(|planned| parted.contains(&planned.ordinal));
            let mut is_ours = false;
            for planned in ours {
                planned.job = self.job_of(planned);
                is_ours = true;
            }
            if is_ours {
                let table = write_items(&items).with_context(|| format!("write {key} anew"))?;
                archive.put(&key, table, PutMode::Overwrite).await?;
            }
        }
        Ok(())
    }
}

/// What the unfinished runs of an archive have of items. A run whose table is damaged cannot go on, and is passed over.
pub(super) async fn find(archive: &dyn Storage, wanted: &[Wanted]) -> Result<Vec<Unfinished>, ArchiveError> {
    let (manifests, _) = archive::manifests(archive).await?;
    let parts = archive::parts(archive, None).await?;
    let mut found = Vec::new();
    for manifest in manifests {
        let done: HashSet<&JobId> =
            parts.get(&manifest.run).into_iter().flatten().map(|(job, _)| job).collect();
        if done.len() as u64 >= manifest.jobs {
            continue;
        }
        let items = match archive::items(archive, &manifest).await {
            Ok(items) => items,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let is_named =
            |planned: &PlannedItem| wanted.iter().any(|wanted| wanted.names(planned.item.uri.as_str()));
        let jobs = items.iter().map(|planned| &planned.job).collect::<HashSet<_>>().len() as u64;
        let (named, others): (Vec<_>, Vec<_>) =
            items.into_iter().filter(|planned| !done.contains(&planned.job)).partition(is_named);
        if named.is_empty() {
            continue;
        }
        let others: HashSet<JobId> = others.into_iter().map(|planned| planned.job).collect();
        let mixed = named.iter().map(|planned| &planned.job).filter(|job| others.contains(*job));
        let mixed = mixed.cloned().collect();
        found.push(Unfinished { manifest, items: named, mixed, jobs });
    }
    Ok(found)
}
