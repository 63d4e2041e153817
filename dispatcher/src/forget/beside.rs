//! What an archive has of items beside their rows: thumbnails, tracks, copies, and marks of those that are forgotten.

use super::Wanted;
use crate::archive::{self, READS_AT_ONCE};
use crate::index::Ready;
use crate::tracks;
use bytes::Bytes;
use captionfleet_index::content_key;
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout::{self, Track};
use captionfleet_proto::storage::{PutMode, Storage, StorageError};
use captionfleet_proto::uri::ItemUri;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// What rows, and plans of what is not done, say of an item that is to be forgotten.
pub(super) struct Seen<'a> {
    pub(super) run: &'a RunId,
    pub(super) item: &'a ItemUri,
    pub(super) is_film: bool,
    pub(super) sha256: Option<&'a str>,
    pub(super) etag: Option<&'a str>,
}

/// Marks items, so that no run captions them again.
pub(super) async fn mark(archive: &dyn Storage, seen: &[Seen<'_>]) -> Result<(), StorageError> {
    let mut marks = BTreeSet::new();
    for Seen { item, sha256, etag, .. } in seen {
        // Sources are known by either, before they are read.
        let digest = sha256.map(|sha256| layout::content_key(Some(sha256), None));
        let version = etag.map(|etag| layout::content_key(None, Some(etag)));
        marks.extend(digest.into_iter().chain(version).map(|content| layout::forgotten(item, content)));
    }
    let puts = marks
        .into_iter()
        .map(|mark| async move { archive.put(&mark, Bytes::new(), PutMode::Overwrite).await }.boxed());
    let mut puts = futures::stream::iter(puts).buffer_unordered(READS_AT_ONCE);
    while puts.try_next().await?.is_some() {}
    Ok(())
}

/// Removes what else the archive has of items. The runs that had some of them as films. Copies stay that rows of other items name,
/// or that other items which are `planned` have.
pub(super) async fn remove(
    archive: &dyn Storage,
    ready: &Arc<Ready>,
    wanted: &Arc<[Wanted]>,
    seen: &[Seen<'_>],
    planned: &HashSet<u64>,
) -> anyhow::Result<BTreeSet<RunId>> {
    let mut films: BTreeMap<&RunId, BTreeSet<&ItemUri>> = BTreeMap::new();
    for Seen { run, item, .. } in seen.iter().filter(|seen| seen.is_film) {
        films.entry(run).or_default().insert(item);
    }
    let mut keys = Vec::new();
    for (run, films) in &films {
        // Without its table a run counts as one whose films nobody has told of yet.
        keys.push(layout::videos(run));
        for film in films {
            keys.extend(
                [Track::Captions, Track::Chapters, Track::Srt].map(|track| layout::track(run, film, track)),
            );
        }
    }
    let all: BTreeSet<&ItemUri> = films.values().flatten().copied().collect();
    for film in all {
        // A job that was killed left frames that no row names.
        let prefix = layout::thumbnails_prefix(film);
        let mut listing = archive.list(&prefix);
        while let Some(frame) = listing.try_next().await? {
            keys.push(frame.key);
        }
    }
    let copies: BTreeSet<&str> = seen.iter().filter_map(|seen| seen.sha256).collect();
    let contents = copies.iter().copied().map(content_key).collect();
    let wanted = wanted.clone();
    let is_other = move |item: &str| !wanted.iter().any(|wanted| wanted.names(item));
    let needed = ready.contents_of_others(contents, is_other).await?;
    let is_needed = |content: u64| needed.contains(&content) || planned.contains(&content);
    let unneeded = copies.into_iter().filter(|sha256| !is_needed(content_key(sha256)));
    keys.extend(unneeded.map(layout::staged));
    delete_all(archive, keys).await?;
    Ok(films.into_keys().cloned().collect())
}

async fn delete_all(archive: &dyn Storage, keys: Vec<String>) -> Result<(), StorageError> {
    let deletes = keys.into_iter().map(|key| async move { archive.delete(&key).await }.boxed());
    let mut deletes = futures::stream::iter(deletes).buffer_unordered(READS_AT_ONCE);
    while deletes.try_next().await?.is_some() {}
    Ok(())
}

/// Writes the tracks of runs anew. Where that fails they are owed, as those of a run that nobody followed to its end.
pub(super) async fn tell_anew(archive: &dyn Storage, runs: &BTreeSet<RunId>) -> anyhow::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let (manifests, _) = archive::manifests(archive).await?;
    for manifest in manifests.iter().filter(|manifest| runs.contains(&manifest.run)) {
        if let Err(error) = tracks::write(archive, manifest, false).await {
            let run = &manifest.run;
            tracing::warn!(%run, error = %format!("{error:#}"), "captions of its videos cannot be written");
        }
    }
    Ok(())
}
