//! Proving that every item of a run has exactly one terminal row.

mod audit;

pub use audit::{Audit, Auditor, Finding, ItemKey};

use crate::archive::{self, ArchiveError, READS_AT_ONCE};
use crate::ledger::Tally;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::storage::{Storage, StorageErrorKind};
use futures::StreamExt as _;

/// Compares the items of one run with the rows of its parts.
///
/// Damaged objects are findings; an archive that cannot be reached is an error.
pub async fn audit(archive: &dyn Storage, run: &RunId) -> Result<Audit, ArchiveError> {
    let mut auditor = Auditor::new(run.clone());
    match archive::manifest(archive, run).await {
        Ok(manifest) => expect_items(archive, &manifest, &mut auditor).await?,
        Err(error) if error.is_damage() || is_missing(&error) => {
            auditor.see_unreadable(&layout::run_manifest(run), chain(&error));
        }
        Err(error) => return Err(error),
    }
    let parts = archive::parts(archive, Some(run)).await?.remove(run).unwrap_or_default();
    let reads = parts.into_iter().map(|(job, key)| read_part(archive, job, key));
    let mut read = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some((job, key, rows)) = read.next().await {
        auditor.see_part(&job, &key);
        match rows {
            Ok(rows) => {
                for row in rows {
                    if row.run != *run || row.job != job {
                        let reason = format!("holds a row of run {}, job {}", row.run, row.job);
                        auditor.see_stray(&key, reason);
                    }
                    let tally = Tally::of(std::slice::from_ref(&row));
                    auditor.see_row((row.item, row.frame_ms), &key, &tally);
                }
            }
            Err(error) if error.is_damage() => auditor.see_unreadable(&key, chain(&error)),
            Err(error) => return Err(error),
        }
    }
    Ok(auditor.finish())
}

async fn read_part(
    archive: &dyn Storage,
    job: JobId,
    key: String,
) -> (JobId, String, Result<Vec<captionfleet_proto::rows::RowKey>, ArchiveError>) {
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
        auditor.expect((planned.item.uri, planned.item.frame_ms), planned.job);
    }
    Ok(())
}

fn is_missing(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Storage(error) if error.kind() == StorageErrorKind::NotFound)
}

/// The error with its causes, on one line.
fn chain(error: &ArchiveError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
