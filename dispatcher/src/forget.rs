//! Forgetting items: what was seen of them goes from the parts, the tracks, the thumbnails and the copies. Their rows stay as
//! skipped ones, so that runs stay whole and no later run captions them again.

use crate::archive::{self, READS_AT_ONCE, TABLE_BYTES};
use crate::index::{Opened, Ready, Shelf};
use crate::tracks;
use anyhow::Context as _;
use captionfleet_index::content_key;
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout::{self, Track};
use captionfleet_proto::rows::{FORGOTTEN, Row, Status, USUAL_SHAPE, read_shaped_part, write_part};
use captionfleet_proto::storage::{PutMode, Storage};
use captionfleet_proto::uri::ItemUri;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Their rows.
    pub rows: u64,
    /// The parts that had them, which were written anew.
    pub parts: u64,
}

/// Forgets items; with `dry_run` only says what there is.
///
/// What workers have in hand at this moment is not stopped: cancel the run first, or forget again when it has ended.
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
    let found = {
        let wanted = wanted.clone();
        ready.parts_with(move |item| wanted.iter().any(|wanted| wanted.names(item))).await?
    };
    let mut forgotten = Forgotten::default();
    let (mut gone, mut items) = (Vec::new(), BTreeSet::new());
    let rewrites = found.into_iter().map(|key| rewrite(shelf.archive(), key, &wanted, dry_run).boxed());
    let mut rewrites = futures::stream::iter(rewrites).buffer_unordered(READS_AT_ONCE);
    while let Some(rows) = rewrites.try_next().await? {
        forgotten.parts += u64::from(!rows.is_empty());
        forgotten.rows += rows.len() as u64;
        items.extend(rows.iter().map(|row| row.item.clone()));
        gone.extend(rows);
    }
    forgotten.items = items.len() as u64;
    if !dry_run {
        tidy(shelf.archive(), &ready, &wanted, &gone).await?;
    }
    Ok(forgotten)
}

/// Writes a part without what it says of the items. The rows that it had of them.
async fn rewrite(
    archive: &dyn Storage,
    key: String,
    wanted: &[Wanted],
    dry_run: bool,
) -> anyhow::Result<Vec<Row>> {
    let bytes = archive.get(&key, TABLE_BYTES).await?.bytes;
    let named = || format!("{key}: this part cannot be read");
    let read = tokio::task::spawn_blocking(move || read_shaped_part(bytes)).await;
    let (rows, shape) = read.context("reading was interrupted; please report this")?.with_context(named)?;
    let is_named =
        |row: &Row| !row.is_forgotten() && wanted.iter().any(|wanted| wanted.names(row.item.as_str()));
    let gone: Vec<Row> = rows.iter().filter(|row| is_named(row)).cloned().collect();
    if gone.is_empty() || dry_run {
        return Ok(gone);
    }
    let left: Vec<Row> =
        rows.into_iter().map(|row| if is_named(&row) { without_content(row) } else { row }).collect();
    let part =
        write_part(&left, shape.unwrap_or(USUAL_SHAPE)).with_context(|| format!("write {key} anew"))?;
    archive.put(&key, part, PutMode::Overwrite).await?;
    Ok(gone)
}

/// The row as it stays: that there was such an item, in which job and run, and which bytes not to caption again.
fn without_content(row: Row) -> Row {
    Row {
        status: Status::Skipped,
        error_code: Some(FORGOTTEN.to_owned()),
        error_message: Some("removed from the archive on request".to_owned()),
        width: None,
        height: None,
        caption: None,
        answers: None,
        fields: None,
        tokens: None,
        mean_logprob: None,
        stop_reason: None,
        embedding: None,
        embedding_space: None,
        duplicate_of: None,
        ..row
    }
}

/// Removes what else the archive has of forgotten rows.
async fn tidy(
    archive: &dyn Storage,
    ready: &Arc<Ready>,
    wanted: &Arc<[Wanted]>,
    gone: &[Row],
) -> anyhow::Result<()> {
    let mut films: BTreeMap<&RunId, BTreeSet<&ItemUri>> = BTreeMap::new();
    for row in gone {
        if let Some(frame_ms) = row.frame_ms {
            let content = layout::content_key(row.sha256.as_deref(), row.etag.as_deref());
            archive.delete(&layout::thumbnail(&row.item, content, frame_ms)).await?;
            films.entry(&row.run).or_default().insert(&row.item);
        }
    }
    write_tracks(archive, films).await?;
    let copies: BTreeSet<&String> = gone.iter().filter_map(|row| row.sha256.as_ref()).collect();
    let contents = copies.iter().map(|sha256| content_key(sha256)).collect();
    let wanted = wanted.clone();
    let is_other = move |item: &str| !wanted.iter().any(|wanted| wanted.names(item));
    let needed = ready.contents_of_others(contents, is_other).await?;
    for sha256 in copies.into_iter().filter(|sha256| !needed.contains(&content_key(sha256))) {
        archive.delete(&layout::staged(sha256)).await?;
    }
    Ok(())
}

/// Makes the tracks of runs anew that had some of the films.
async fn write_tracks(
    archive: &dyn Storage,
    films: BTreeMap<&RunId, BTreeSet<&ItemUri>>,
) -> anyhow::Result<()> {
    if films.is_empty() {
        return Ok(());
    }
    let (manifests, _) = archive::manifests(archive).await?;
    for manifest in &manifests {
        let Some(films) = films.get(&manifest.run) else { continue };
        let mut with_srt = false;
        for film in films {
            with_srt |= archive::is_there(archive, &layout::track(&manifest.run, film, Track::Srt)).await?;
        }
        if archive::is_there(archive, &layout::videos(&manifest.run)).await? {
            tracks::write(archive, manifest, with_srt).await?;
        }
    }
    Ok(())
}
