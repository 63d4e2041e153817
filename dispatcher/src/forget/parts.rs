//! Parts without what they say of forgotten items.

use super::Wanted;
use super::planned::REMOVED;
use crate::archive::{READS_AT_ONCE, TABLE_BYTES};
use crate::history::Marks;
use anyhow::Context as _;
use captionfleet_proto::rows::{FORGOTTEN, Row, Status, USUAL_SHAPE, read_shaped_part, write_part};
use captionfleet_proto::storage::{PutMode, Storage};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

/// Writes parts anew. Another process may be at one of them for other items, and whoever writes last brings back what the other one
/// took out: each takes out all that is marked, and looks again if there are more marks after it has written.
pub(super) async fn rewrite(
    archive: &dyn Storage,
    mut keys: Vec<String>,
    wanted: &[Wanted],
) -> anyhow::Result<()> {
    let mut marks = Marks::load(archive).await?;
    while !keys.is_empty() {
        let rewrites = keys.into_iter().map(|key| rewrite_one(archive, key, wanted, &marks).boxed());
        let rewrites = futures::stream::iter(rewrites).buffer_unordered(READS_AT_ONCE);
        let written: Vec<Option<String>> = rewrites.try_collect().await?;
        let before = std::mem::replace(&mut marks, Marks::load(archive).await?);
        keys = if marks == before { Vec::new() } else { written.into_iter().flatten().collect() };
    }
    Ok(())
}

/// Its key, if there was something to take out.
async fn rewrite_one(
    archive: &dyn Storage,
    key: String,
    wanted: &[Wanted],
    marks: &Marks,
) -> anyhow::Result<Option<String>> {
    let bytes = archive.get(&key, TABLE_BYTES).await?.bytes;
    let named = || format!("{key}: this part cannot be read");
    let read = tokio::task::spawn_blocking(move || read_shaped_part(bytes)).await;
    let (rows, shape) = read.context("reading was interrupted; please report this")?.with_context(named)?;
    let is_gone = |row: &Row| {
        wanted.iter().any(|wanted| wanted.names(row.item.as_str()))
            || marks.cover_bytes(&row.item, row.sha256.as_deref(), row.etag.as_deref())
    };
    if !rows.iter().any(|row| is_gone(row) && !row.is_forgotten()) {
        return Ok(None);
    }
    let left: Vec<Row> =
        rows.into_iter().map(|row| if is_gone(&row) { without_content(row) } else { row }).collect();
    let part =
        write_part(&left, shape.unwrap_or(USUAL_SHAPE)).with_context(|| format!("write {key} anew"))?;
    archive.put(&key, part, PutMode::Overwrite).await?;
    Ok(Some(key))
}

/// The row as it stays: that there was such an item, in which job and run, and which bytes not to caption again.
fn without_content(row: Row) -> Row {
    Row {
        status: Status::Skipped,
        error_code: Some(FORGOTTEN.to_owned()),
        error_message: Some(REMOVED.to_owned()),
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
