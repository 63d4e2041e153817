//! Proving that every item of a run has exactly one terminal row.

mod audit;
mod film;
mod finding;

pub use audit::{Audit, Auditor};
pub use finding::{Finding, ItemKey};

use crate::archive::{self, ArchiveError, READS_AT_ONCE};
use captionfleet_proto::chain;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::RowKey;
use captionfleet_proto::storage::{Storage, StorageErrorKind};
use futures::{StreamExt as _, TryStreamExt as _};

/// Compares the items of one run with the rows of its parts.
///
/// Damaged objects are findings; an archive that cannot be reached is an error.
pub async fn audit(archive: &dyn Storage, run: &RunId) -> Result<Audit, ArchiveError> {
    let mut auditor = Auditor::new(run.clone());
    let mut planned = true;
    match archive::manifest(archive, run).await {
        Ok(manifest) => expect_items(archive, &manifest, &mut auditor).await?,
        // Jobs of other programs need no manifest; one that was lost left its items behind.
        Err(error) if is_missing(&error) && !has_items(archive, run).await? => planned = false,
        Err(error) if error.is_damage() || is_missing(&error) => {
            auditor.see_unreadable(&layout::run_manifest(run), chain(&error));
        }
        Err(error) => return Err(error),
    }
    let parts = archive::parts(archive, Some(run)).await?.remove(run).unwrap_or_default();
    let reads = parts.into_iter().map(|(job, key)| read_part(archive, job, key));
    let mut read = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some((job, key, rows)) = read.next().await {
        match rows {
            Ok(rows) => see_rows(&mut auditor, planned, &job, &key, rows),
            Err(error) if error.is_damage() => {
                if planned {
                    auditor.see_part(&job, &key);
                }
                auditor.see_unreadable(&key, chain(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(auditor.finish())
}

fn see_rows(auditor: &mut Auditor, planned: bool, job: &JobId, key: &str, rows: Vec<RowKey>) {
    let run = auditor.run().clone();
    if let Some(row) = rows.iter().find(|row| row.run != run || row.job != *job) {
        auditor.see_stray(key, format!("holds a row of run {}, job {}", row.run, row.job));
    }
    if planned {
        auditor.see_part(job, key);
        for row in rows {
            auditor.see_row(row, key);
        }
    } else {
        auditor.see_own_part(job, key, &rows);
    }
}

/// Whether the run has a table of items.
async fn has_items(archive: &dyn Storage, run: &RunId) -> Result<bool, ArchiveError> {
    let prefix = layout::run_items_prefix(run);
    Ok(archive.list(&prefix).try_next().await?.is_some())
}

async fn read_part(
    archive: &dyn Storage,
    job: JobId,
    key: String,
) -> (JobId, String, Result<Vec<RowKey>, ArchiveError>) {
    let rows = archive::keys(archive, key.clone()).await;
    (job, key, rows)
}

async fn expect_items(
    archive: &dyn Storage,
    manifest: &RunManifest,
    auditor: &mut Auditor,
) -> Result<(), ArchiveError> {
    let items = match archive::items(archive, manifest).await {
        Ok(items) => items,
        Err(error) if error.is_damage() || is_missing(&error) => {
            auditor.see_unreadable(&layout::run_items_prefix(&manifest.run), chain(&error));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if items.len() as u64 != manifest.items {
        let reason = format!("holds {} items, the manifest says {}", items.len(), manifest.items);
        auditor.see_unreadable(&layout::run_items_prefix(&manifest.run), reason);
    }
    for planned in items {
        auditor.expect(&planned.item, planned.job);
    }
    Ok(())
}

fn is_missing(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Storage(error) if error.kind() == StorageErrorKind::NotFound)
}
