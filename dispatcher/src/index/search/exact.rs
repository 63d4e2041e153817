//! Scoring by the vectors themselves, which lie in the parts. Of a part only what is compared is read: a part of 64 pictures
//! has a megabyte of vectors, and the best pictures of a large archive lie in hundreds of parts.

use super::computed;
use crate::archive::{ArchiveError, READS_AT_ONCE, TABLE_BYTES};
use crate::index::places::is_same;
use crate::index::shelf::Shelf;
use crate::search::Query;
use captionfleet_index::{Found, PartStamp, Place, View};
use captionfleet_proto::rows::{EmbeddingPlaces, EmbeddingShape, Embeddings, read_embeddings};
use captionfleet_proto::storage::StorageErrorKind;
use futures::{FutureExt as _, StreamExt as _};
use std::collections::BTreeMap;

/// A row to be scored.
struct Wanted {
    place: Place,
    item: String,
    frame_ms: Option<u64>,
    /// Which one of the embeddings of its part is its own, and how many those are.
    number: Option<(u64, u64)>,
}

/// Scores rows by the vectors in their parts. A part that is gone meanwhile takes its rows with it.
pub(super) async fn scored(
    view: &View,
    shelf: &Shelf,
    found: Vec<Found>,
    query: &Query,
) -> Result<Vec<(Place, f32)>, ArchiveError> {
    let mut parts: BTreeMap<PartStamp, Vec<Wanted>> = BTreeMap::new();
    for Found { place, .. } in found {
        let (segment, record) = view.row(place);
        let part = segment.parts()[record.part as usize].clone();
        let number = segment.place_in_part(&record).map(|(number, all)| (number as u64, all as u64));
        let item = segment.item(&record).to_owned();
        parts.entry(part).or_default().push(Wanted { place, item, frame_ms: record.frame_ms, number });
    }
    let reads = parts.into_iter().map(|(part, rows)| scored_in(shelf, part, rows, query.clone()).boxed());
    let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    let mut exact = Vec::new();
    while let Some(part) = reads.next().await {
        exact.extend(part?);
    }
    Ok(exact)
}

async fn scored_in(
    shelf: &Shelf,
    part: PartStamp,
    rows: Vec<Wanted>,
    query: Query,
) -> Result<Vec<(Place, f32)>, ArchiveError> {
    if let Some(places) = shelf.places().of(shelf.archive(), &part).await?
        && let Some((start, length, offsets)) = span(&places, &rows)
    {
        match shelf.archive().get_range(&part.key, start, length).await {
            Ok(object) if is_same(&part, &object) && object.bytes.len() as u64 == length => {
                let size = places.values() * 2;
                let score = move || {
                    let mut scratch = Vec::new();
                    let mut score = |(row, offset): (Wanted, usize)| {
                        let values = EmbeddingPlaces::decode(&object.bytes[offset..offset + size]);
                        Some((row.place, query.score(&values, &mut scratch)?))
                    };
                    rows.into_iter().zip(offsets).filter_map(&mut score).collect()
                };
                return computed(score).await;
            }
            // Replaced since it was listed.
            Ok(_) => {}
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
    let object = match shelf.archive().get(&part.key, TABLE_BYTES).await {
        Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(Vec::new()),
        object => object?,
    };
    computed(move || match read_embeddings(object.bytes) {
        Ok(embeddings) => scored_of_whole(&embeddings, rows, &query),
        Err(error) => {
            tracing::warn!(part = part.key, %error, "a part cannot be read and its rows are left out");
            Vec::new()
        }
    })
    .await
}

/// The bytes that hold the embeddings of all `rows`, as offset and length, and where in them each begins; `None` unless the
/// part has an embedding for each row with codes and no other.
fn span(places: &EmbeddingPlaces, rows: &[Wanted]) -> Option<(u64, u64, Vec<usize>)> {
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        let (number, all) = row.number?;
        ranges.push(places.range(number).filter(|_| all == places.len())?);
    }
    let start = ranges.iter().map(|range| range.start).min()?;
    let end = ranges.iter().map(|range| range.end).max()?;
    let offsets = ranges.iter().map(|range| usize::try_from(range.start - start)).collect::<Result<_, _>>();
    Some((start, end - start, offsets.ok()?))
}

fn scored_of_whole(part: &Embeddings, rows: Vec<Wanted>, query: &Query) -> Vec<(Place, f32)> {
    let length = part.shape.map_or(0, EmbeddingShape::len);
    let mut scratch = Vec::new();
    let score = |wanted: Wanted| {
        let same =
            |row: &usize| part.items[*row].as_str() == wanted.item && part.frame_ms[*row] == wanted.frame_ms;
        let row = (0..part.items.len()).find(same)?;
        let vectors = part.values.get(row * length..(row + 1) * length)?;
        Some((wanted.place, query.score(vectors, &mut scratch)?))
    };
    rows.into_iter().filter_map(score).collect()
}
