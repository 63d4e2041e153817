//! Forgetting items: what was seen of them goes from the parts, the tracks, the thumbnails and the copies. Their rows stay as
//! skipped ones, so that runs stay whole; what unfinished runs owe of them gets such rows, and a mark for each item and its bytes
//! keeps later runs from captioning it again.

mod beside;
mod parts;
mod planned;

use beside::Seen;
use planned::Unfinished;

use crate::archive::{self, READS_AT_ONCE};
use crate::index::{Opened, Ready, Shelf};
use captionfleet_proto::rows::RowKey;
use captionfleet_proto::uri::ItemUri;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This picture or film, all its frames.
    Item(ItemUri),
    /// All whose URIs begin so.
    Below(String),
}

impl Wanted {
    fn names(&self, item: &str) -> bool {
        match self {
            Self::Item(wanted) => wanted.as_str() == item,
            Self::Below(prefix) => item.starts_with(prefix),
        }
    }
}

/// What was forgotten, or would be.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Forgotten {
    /// Different pictures and films.
    pub items: u64,
    /// Their rows, and those that unfinished runs still owed.
    pub rows: u64,
    /// The parts that had them, which were written anew, and the parts of what was owed.
    pub parts: u64,
}

/// Forgets items; with `dry_run` only says what there is.
///
/// A job that waits in a queue finds its part there, and so does one that a worker has in hand when it is done; but of a film that
/// one may leave thumbnails that it makes until then. What else was in such a job is owed by its run.
///
/// # Errors
/// When the index lacks too many parts to know where the items are, or the archive cannot be read or written. What was
/// forgotten by then stays so; the same call does the rest.
pub async fn forget(shelf: &Shelf, wanted: Arc<[Wanted]>, dry_run: bool) -> anyhow::Result<Forgotten> {
    let ready = match Ready::open(shelf, None).await? {
        Opened::Ready(ready) => ready,
        Opened::Behind { unindexed } => anyhow::bail!(
            "the index lacks {unindexed} parts, so that not all rows of an item are known; `dispatcher index` takes them in"
        ),
        Opened::Elsewhere(elsewhere) => return Err(elsewhere.into()),
    };
    let archive = shelf.archive();
    let found = {
        let wanted = wanted.clone();
        ready.parts_with(move |item| wanted.iter().any(|wanted| wanted.names(item))).await?
    };
    let (mut keys, mut gone) = (Vec::new(), Vec::new());
    let is_named = |row: &RowKey| wanted.iter().any(|wanted| wanted.names(row.item.as_str()));
    let reads = found.into_iter().map(|key| {
        let read = async { archive::keys(archive, key.clone()).await.map(|rows| (key, rows)) };
        read.boxed()
    });
    let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some((key, rows)) = reads.try_next().await? {
        let before = gone.len();
        gone.extend(rows.into_iter().filter(|row| is_named(row) && !row.is_forgotten()));
        if gone.len() > before {
            keys.push(key);
        }
    }
    let planned = planned::find(archive, &wanted).await?;
    let unfinished = &planned.runs;
    let seen: Vec<Seen<'_>> =
        gone.iter().map(Seen::of_row).chain(unfinished.iter().flat_map(Seen::of_plan)).collect();
    let items: BTreeSet<&ItemUri> = seen.iter().map(|seen| seen.item).collect();
    let answered: usize = unfinished.iter().map(|run| run.answered().len()).sum();
    let forgotten = Forgotten {
        items: items.len() as u64,
        rows: seen.len() as u64,
        parts: (keys.len() + answered) as u64,
    };
    if dry_run || (seen.is_empty() && unfinished.is_empty()) {
        return Ok(forgotten);
    }
    // From here on no run takes them up. The rows go last: whoever begins again after an interruption finds by them what is left.
    beside::mark(archive, &seen).await?;
    let told = beside::remove(archive, &ready, &wanted, &seen, &planned.contents_of_others).await?;
    if !unfinished.is_empty() {
        let shape = archive::shape(archive).await;
        for run in unfinished {
            run.answer(archive, shape).await?;
        }
    }
    parts::rewrite(archive, keys, &wanted).await?;
    beside::tell_anew(archive, &told).await?;
    Ok(forgotten)
}

impl<'a> Seen<'a> {
    fn of_row(row: &'a RowKey) -> Self {
        Self {
            run: &row.run,
            item: &row.item,
            is_film: row.frame_ms.is_some(),
            sha256: row.sha256.as_deref(),
            etag: row.etag.as_deref(),
        }
    }

    fn of_plan(unfinished: &'a Unfinished) -> impl Iterator<Item = Self> {
        unfinished.items.iter().map(|planned| Self {
            run: &unfinished.manifest.run,
            item: &planned.item.uri,
            is_film: planned.item.sample.is_some(),
            sha256: planned.item.sha256.as_deref(),
            etag: planned.item.etag.as_deref(),
        })
    }
}
