//! Parts as the index wants them.

use crate::archive::{ArchiveError, READS_AT_ONCE, TABLE_BYTES};
use captionfleet_index::codes::Shape;
use captionfleet_index::{NewRow, PartStamp, SegmentBuilder, Status, content_key};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{self, EmbeddingShape, Row};
use captionfleet_proto::storage::{ObjectMeta, Storage, StorageErrorKind};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;

/// The parts of an archive as they are now, by key.
pub type Listing = BTreeMap<String, PartStamp>;

/// A part and its rows.
#[derive(Debug)]
pub struct Part {
    /// Which object it was.
    pub stamp: PartStamp,
    /// Its rows.
    pub rows: Vec<Row>,
    /// How their vectors are arranged, if any has some.
    shape: Option<EmbeddingShape>,
}

/// Lists all parts.
pub async fn list(archive: &dyn Storage) -> Result<Listing, ArchiveError> {
    let prefix = layout::parts_prefix(None);
    let mut listing = archive.list(&prefix);
    let mut parts = Listing::new();
    while let Some(object) = listing.try_next().await? {
        if layout::job_of_part(&object.key).is_some() {
            parts.insert(object.key.clone(), stamp(object));
        }
    }
    Ok(parts)
}

/// Which object a part is.
pub fn stamp(object: ObjectMeta) -> PartStamp {
    PartStamp { key: object.key, size: object.size, etag: object.etag }
}

/// Reads parts; damaged ones come back by key, with what is wrong, and those that are gone meanwhile not at all.
pub async fn read(
    archive: &dyn Storage,
    stamps: &[PartStamp],
) -> Result<(Vec<Part>, Vec<(PartStamp, String)>), ArchiveError> {
    // Owned stamps: a closure over borrowed ones would tie the whole future to one thread.
    let reads = stamps.iter().cloned().map(|stamp| read_one(archive, stamp).boxed());
    let mut reads = futures::stream::iter(reads).buffered(READS_AT_ONCE);
    let (mut parts, mut damaged) = (Vec::new(), Vec::new());
    while let Some(part) = reads.next().await {
        match part? {
            Some(Ok(part)) => parts.push(part),
            Some(Err(fault)) => damaged.push(fault),
            None => {}
        }
    }
    Ok((parts, damaged))
}

/// `None` if the part is gone.
async fn read_one(
    archive: &dyn Storage,
    stamp: PartStamp,
) -> Result<Option<Result<Part, (PartStamp, String)>>, ArchiveError> {
    let object = match archive.get(&stamp.key, TABLE_BYTES).await {
        Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == StorageErrorKind::Damaged => {
            return Ok(Some(Err((stamp, error.to_string()))));
        }
        object => object?,
    };
    match tokio::task::spawn_blocking(move || rows::read_shaped_part(object.bytes)).await {
        Ok(Ok((rows, shape))) => Ok(Some(Ok(Part { stamp, rows, shape }))),
        Ok(Err(error)) => Ok(Some(Err((stamp, error.to_string())))),
        Err(_) => Err(ArchiveError::Interrupted { key: stamp.key }),
    }
}

impl Part {
    /// The embedding spaces of its rows, if their vectors can be indexed.
    pub fn spaces(&self) -> Vec<(String, Shape)> {
        let shape = self.shape.and_then(|shape| Shape::new(shape.vectors as usize, shape.dim as usize));
        let mut spaces: Vec<&String> =
            self.rows.iter().filter_map(|row| row.embedding_space.as_ref()).collect();
        spaces.sort_unstable();
        spaces.dedup();
        shape
            .into_iter()
            .flat_map(|shape| spaces.iter().map(move |space| ((*space).clone(), shape)))
            .collect()
    }
}

/// Adds a part to a segment of the segment's space.
pub fn add(builder: &mut SegmentBuilder, space: &str, part: &Part) {
    let rows = part.rows.iter().filter(|row| !row.is_forgotten());
    let rows: Vec<NewRow<'_>> = rows.map(|row| new_row(row, space)).collect();
    builder.add_part(part.stamp.clone(), &rows);
}

fn new_row<'a>(row: &'a Row, space: &str) -> NewRow<'a> {
    let found = row.status == rows::Status::Ok && row.embedding_space.as_deref() == Some(space);
    NewRow {
        item: row.item.as_str(),
        frame_ms: row.frame_ms,
        finished: row.finished_at.as_microsecond(),
        status: match row.status {
            rows::Status::Ok => Status::Ok,
            rows::Status::Failed => Status::Failed,
            rows::Status::Skipped => Status::Skipped,
        },
        caption: row.caption.as_deref(),
        asked: asked(row),
        content: row.sha256.as_deref().or(row.etag.as_deref()).map_or(0, content_key),
        size: row.width.zip(row.height),
        embedding: row.embedding.as_deref().filter(|_| found),
    }
}

/// What tells answers apart: the beginning of the prompt's hash, and never that of captions.
fn asked(row: &Row) -> u32 {
    let hash = row.answers.as_ref().and_then(|_| row.prompt_hash.get(..6));
    hash.map_or(0, |digits| u32::from_str_radix(digits, 16).unwrap_or(1).max(1))
}
