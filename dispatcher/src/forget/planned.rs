//! What is planned of items and not done: it is answered here, so that no worker looks at them.

use super::Wanted;
use crate::archive::{self, ArchiveError, READS_AT_ONCE};
use crate::submission::unseen_row;
use anyhow::Context as _;
use captionfleet_index::content_key;
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId, JobItem, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::{PlannedItem, RunManifest, read_items, write_items};
use captionfleet_proto::rows::{EmbeddingShape, FORGOTTEN, Row, RowKey, Status, write_part};
use captionfleet_proto::storage::{PutMode, Storage};
use captionfleet_proto::uri::ItemUri;
use futures::{FutureExt as _, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Said in rows of forgotten items, for people.
pub(super) const REMOVED: &str = "removed from the archive on request";

/// What unfinished runs still owe.
#[derive(Default)]
pub(super) struct Planned {
    /// The runs that have items that are to be forgotten.
    pub(super) runs: Vec<Unfinished>,
    /// What the other items have, see [`content_key`]: their copies are needed.
    pub(super) contents_of_others: HashSet<u64>,
}

/// A run that is not complete, and its planned items of jobs without a part that are to be forgotten.
pub(super) struct Unfinished {
    pub(super) manifest: RunManifest,
    /// They keep their jobs: the part that answers them is what a worker looks for who gets an older message of the job.
    pub(super) items: Vec<PlannedItem>,
    /// The new jobs of the items that were in jobs with them, by ordinal.
    moved: BTreeMap<u64, JobId>,
    /// How many jobs the table of items has then.
    jobs: u64,
}

impl Unfinished {
    /// The jobs that are answered.
    pub(super) fn answered(&self) -> BTreeMap<&JobId, Vec<&PlannedItem>> {
        let mut jobs: BTreeMap<&JobId, Vec<&PlannedItem>> = BTreeMap::new();
        for planned in &self.items {
            jobs.entry(&planned.job).or_default().push(planned);
        }
        jobs
    }

    /// Answers them. The rows of a part stand in the order of its job's items, those of a run in the order of its table.
    pub(super) async fn answer(&self, archive: &dyn Storage, shape: EmbeddingShape) -> anyhow::Result<()> {
        let run = &self.manifest.run;
        // Nobody looks for what an earlier turn kept of a job that has its part.
        for job in self.answered().into_keys() {
            archive.delete(&layout::unfinished(run, job)).await?;
        }
        if self.jobs != self.manifest.jobs {
            // Before the parts: with its last job answered the run would count as complete.
            let manifest = RunManifest { jobs: self.jobs, ..self.manifest.clone() };
            let bytes = codec::encode_manifest(&manifest).context("write the run's manifest anew")?;
            archive.put(&layout::run_manifest(run), bytes, PutMode::Overwrite).await?;
        }
        for (job, items) in self.answered() {
            let rows: Vec<Row> = items.into_iter().map(|planned| self.row(planned)).collect();
            let part = write_part(&rows, shape).context("write the rows of items that are forgotten")?;
            archive.put(&layout::part(run, job), part, PutMode::Overwrite).await?;
        }
        if self.moved.is_empty() { Ok(()) } else { self.move_others(archive).await }
    }

    fn row(&self, planned: &PlannedItem) -> Row {
        let PlannedItem { item, job, .. } = planned;
        Row {
            sha256: item.sha256.clone(),
            etag: item.etag.clone(),
            ..unseen_row(&self.manifest, item, job, (Status::Skipped, FORGOTTEN, REMOVED))
        }
    }

    /// Writes the table of the run's items anew, in which the others of answered jobs have new ones.
    async fn move_others(&self, archive: &dyn Storage) -> anyhow::Result<()> {
        for number in 0..self.manifest.item_files {
            let key = layout::run_items(&self.manifest.run, number);
            let mut items = read_items(archive.get(&key, archive::TABLE_BYTES).await?.bytes)
                .with_context(|| format!("{key}: this table of items cannot be read"))?;
            let mut is_theirs = false;
            for planned in &mut items {
                if let Some(job) = self.moved.get(&planned.ordinal) {
                    planned.job = job.clone();
                    is_theirs = true;
                }
            }
            if is_theirs {
                let table = write_items(&items).with_context(|| format!("write {key} anew"))?;
                archive.put(&key, table, PutMode::Overwrite).await?;
            }
        }
        Ok(())
    }
}

/// What the unfinished runs of an archive have of items. A run whose table is damaged cannot go on, and is passed over.
pub(super) async fn find(archive: &dyn Storage, wanted: &[Wanted]) -> Result<Planned, ArchiveError> {
    let (manifests, _) = archive::manifests(archive).await?;
    let parts = archive::parts(archive, None).await?;
    let is_named =
        |planned: &PlannedItem| wanted.iter().any(|wanted| wanted.names(planned.item.uri.as_str()));
    let mut found = Planned::default();
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
        let has_named = items.iter().any(is_named);
        let jobs = items.iter().map(|planned| &planned.job).collect::<HashSet<_>>().len() as u64;
        let halves = half_answered(archive, &manifest.run, &items, &done, is_named).await?;
        let open = |planned: &PlannedItem| !done.contains(&planned.job) || halves.contains_key(&planned.job);
        let is_ours = |planned: &PlannedItem| {
            is_named(planned)
                || halves.get(&planned.job).is_some_and(|answered| answered.contains(&planned.item.uri))
        };
        let (ours, others): (Vec<_>, Vec<_>) = items.into_iter().filter(open).partition(is_ours);
        let contents = others.iter().filter_map(|planned| planned.item.sha256.as_deref());
        found.contents_of_others.extend(contents.map(content_key));
        let (moved, more) = moves(&manifest, &ours, &others);
        let jobs = jobs + more;
        // An earlier try may have counted jobs that did not come to be.
        if !ours.is_empty() || (has_named && jobs != manifest.jobs) {
            found.runs.push(Unfinished { manifest, items: ours, moved, jobs });
        }
    }
    Ok(found)
}

/// The jobs of a try that was interrupted before the run's table: their parts answer some of their items, which are told, and of
/// the others there is no row.
async fn half_answered(
    archive: &dyn Storage,
    run: &RunId,
    items: &[PlannedItem],
    done: &HashSet<&JobId>,
    is_named: impl Fn(&PlannedItem) -> bool,
) -> Result<HashMap<JobId, HashSet<ItemUri>>, ArchiveError> {
    let named = items.iter().filter(|planned| is_named(planned)).map(|planned| &planned.job);
    let named: BTreeSet<&JobId> = named.filter(|job| done.contains(job)).collect();
    let mut jobs: BTreeMap<&JobId, HashSet<&ItemUri>> = BTreeMap::new();
    for planned in items.iter().filter(|planned| named.contains(&planned.job)) {
        jobs.entry(&planned.job).or_default().insert(&planned.item.uri);
    }
    let reads = jobs.into_iter().map(|(job, items)| {
        async move { (job, items, archive::keys(archive, layout::part(run, job)).await) }.boxed()
    });
    let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    let mut halves = HashMap::new();
    while let Some((job, items, rows)) = reads.next().await {
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let is_ours = rows.iter().all(RowKey::is_forgotten);
        let answered: HashSet<ItemUri> = rows.into_iter().map(|row| row.item).collect();
        if is_ours && items.into_iter().any(|item| !answered.contains(item)) {
            halves.insert(job.clone(), answered);
        }
    }
    Ok(halves)
}

/// New jobs for `others` that are in jobs with `ours`, by ordinal, and how many. They depend on nothing but the items, so that a
/// second try makes the same.
fn moves(
    manifest: &RunManifest,
    ours: &[PlannedItem],
    others: &[PlannedItem],
) -> (BTreeMap<u64, JobId>, u64) {
    let answered: BTreeSet<&JobId> = ours.iter().map(|planned| &planned.job).collect();
    let mut mixed: BTreeMap<&JobId, Vec<&PlannedItem>> = BTreeMap::new();
    for planned in others.iter().filter(|planned| answered.contains(&planned.job)) {
        mixed.entry(&planned.job).or_default().push(planned);
    }
    let more = mixed.len() as u64;
    let mut moved = BTreeMap::new();
    for planned in mixed.into_values() {
        let items: Vec<JobItem> = planned.iter().map(|planned| planned.item.clone()).collect();
        let first = planned.first().map_or(0, |planned| planned.ordinal);
        let job = Job::deterministic_id(&manifest.run, first, &items, &manifest.prompt_hash);
        moved.extend(planned.into_iter().map(|planned| (planned.ordinal, job.clone())));
    }
    (moved, more)
}
