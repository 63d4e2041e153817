//! Parts without what they say of forgotten items.

use super::Wanted;
use super::planned::REMOVED;
use crate::archive::{READS_AT_ONCE, TABLE_BYTES};
use anyhow::Context as _;
use captionfleet_proto::rows::{FORGOTTEN, Row, Status, USUAL_SHAPE, read_shaped_part, write_part};
use captionfleet_proto::storage::{PutMode, Storage};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

/// Writes parts anew.
pub(super) async fn rewrite(
    archive: &dyn Storage,
    keys: Vec<String>,
    wanted: &[Wanted],
) -> anyhow::Result<()> {
    let rewrites = keys.into_iter().map(|key| rewrite_one(archive, key, wanted).boxed());
    let mut rewrites = futures::stream::iter(rewrites).buffer_unordered(READS_AT_ONCE);
    while rewrites.try_next().await?.is_some() {}
    Ok(())
}

async fn rewrite_one(archive: &dyn Storage, key: String, wanted: &[Wanted]) -> anyhow::Result<()> {
    let bytes = archive.get(&key, TABLE_BYTES).await?.bytes;
    let named = || format!("{key}: this part cannot be read");
    let read = tokio::task::spawn_blocking(move || read_shaped_part(bytes)).await;
    let (rows, shape) = read.context("reading was interrupted; please report this")?.with_context(named)?;
    let is_named = |row: &Row| wanted.iter().any(|wanted| wanted.names(row.item.as_str()));
    let left: Vec<Row> =
        rows.into_iter().map(|row| if is_named(&row) { without_content(row) } else { row }).collect();
    let part =
        write_part(&left, shape.unwrap_or(USUAL_SHAPE)).with_context(|| format!("write {key} anew"))?;
    archive.put(&key, part, PutMode::Overwrite).await?;
    Ok(())
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
