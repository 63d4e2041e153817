//! What earlier runs left in the archive: rows that need not be made again, jobs that still are to be done.

mod films;
mod left;
mod marks;
mod records;

use films::Films;
pub use left::{History, UnfinishedRun};
pub use marks::Marks;
pub use records::{Record, Records, Standing};

use crate::archive::{self, ArchiveError, Parts, READS_AT_ONCE};
use crate::planned_job::PlannedJob;
use crate::wish::Wish;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::{RowKey, Status};
use captionfleet_proto::storage::Storage;
use futures::StreamExt as _;
use std::collections::{HashMap, HashSet};

/// Reads what matters for `wish`.
pub async fn load(archive: &dyn Storage, wish: &Wish) -> Result<History, ArchiveError> {
    let (manifests, damaged) = archive::manifests(archive).await?;
    let mut history =
        History { damaged: damaged.iter().map(ToString::to_string).collect(), ..History::default() };
    let marks = Marks::load(archive).await?;
    let parts = archive::parts(archive, None).await?;
    let mut films = Films::default();
    read_rows(archive, wish, &manifests, &parts, &mut history, &mut films).await?;
    films.judge(archive, wish, &manifests, &parts, &mut history).await?;
    for manifest in manifests {
        let done: HashSet<JobId> =
            parts.get(&manifest.run).into_iter().flatten().map(|(job, _)| job.clone()).collect();
        if (done.len() as u64) < manifest.jobs {
            match unfinished_jobs(archive, &manifest, &done).await {
                Ok(mut jobs) => {
                    marks.sift(&manifest.run, &mut jobs);
                    if !jobs.is_empty() {
                        history.unfinished.push(UnfinishedRun { manifest, jobs });
                    }
                }
                Err(error) if error.is_damage() => history.damaged.push(error.to_string()),
                Err(error) => return Err(error),
            }
        } else if manifest.sample.is_some() && wish.is_met_by_run(&manifest) {
            history.films.push(manifest);
        }
    }
    history.records.forget(marks);
    Ok(history)
}

/// The jobs of a run that are not `done`, in the order of the run.
#[allow(clippy::implicit_hasher, reason = "there is one kind of set here")]
pub async fn unfinished_jobs(
    archive: &dyn Storage,
    manifest: &RunManifest,
    done: &HashSet<JobId>,
) -> Result<Vec<PlannedJob>, ArchiveError> {
    let mut jobs: Vec<PlannedJob> = Vec::new();
    let mut places: HashMap<JobId, usize> = HashMap::new();
    for planned in archive::items(archive, manifest).await? {
        if done.contains(&planned.job) {
            continue;
        }
        let place = *places.entry(planned.job.clone()).or_insert_with(|| {
            jobs.push(PlannedJob { id: planned.job.clone(), items: Vec::new(), begun: true });
            jobs.len() - 1
        });
        jobs[place].items.push(planned.item);
    }
    Ok(jobs)
}

/// Reads the rows that may answer the wish: parts of runs that asked something else stay unread.
async fn read_rows(
    archive: &dyn Storage,
    wish: &Wish,
    manifests: &[RunManifest],
    parts: &Parts,
    history: &mut History,
    films: &mut Films,
) -> Result<(), ArchiveError> {
    let manifests: HashMap<&RunId, &RunManifest> =
        manifests.iter().map(|manifest| (&manifest.run, manifest)).collect();
    let matters = |run: &RunId| {
        // A part without a manifest came from another publisher: only its rows say what they are.
        manifests.get(run).is_none_or(|manifest| {
            wish.is_met_by(&manifest.prompt_hash, manifest.bundle.as_deref(), manifest.embed)
        })
    };
    let keys = parts.iter().filter(|(run, _)| matters(run)).flat_map(|(_, keys)| keys);
    let reads = keys.map(|(_, key)| archive::keys(archive, key.clone()));
    let mut read = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some(outcome) = read.next().await {
        match outcome {
            Ok(rows) => {
                for row in rows {
                    if row.frame_ms.is_some() {
                        films.see(row);
                        continue;
                    }
                    // A bundle without retrieval heads makes no embedding although the run asks for it.
                    let embed = manifests.get(&row.run).is_some_and(|manifest| manifest.embed);
                    add(&mut history.records, wish, row, embed);
                }
            }
            Err(error) if error.is_damage() => history.damaged.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn add(records: &mut Records, wish: &Wish, row: RowKey, embedding_was_asked_for: bool) {
    let embedded = row.embedding_space.is_some() || row.status != Status::Ok || embedding_was_asked_for;
    if !wish.is_met_by(&row.prompt_hash, row.bundle.as_deref(), embedded) {
        return;
    }
    let error_code = match row.status {
        Status::Failed => Some(row.error_code.unwrap_or_default()),
        Status::Ok | Status::Skipped => None,
    };
    records.add(row.item, Record { sha256: row.sha256, etag: row.etag, error_code });
}
