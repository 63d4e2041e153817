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
use half::f16;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

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
    let mut parts: BTreeMap<Arc<PartStamp>, Vec<Wanted>> = BTreeMap::new();
    for Found { place, .. } in found {
        let (segment, record) = view.row(place);
        let part = Arc::new(segment.parts()[record.part as usize].clone());
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
    part: Arc<PartStamp>,
    rows: Vec<Wanted>,
    query: Query,
) -> Result<Vec<(Place, f32)>, ArchiveError> {
    let kept = |row: &Wanted| row.number.and_then(|(number, _)| shelf.vectors().get(&part, number));
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for row in rows {
        match kept(&row) {
            Some(values) => known.push((row.place, values)),
            None => unknown.push(row),
        }
    }
    match read(shelf, &part, &unknown).await? {
        Read::Embeddings(embeddings) => {
            known.extend(unknown.iter().map(|row| row.place).zip(embeddings));
            return computed(move || score(&known, &query)).await;
        }
        Read::Gone => return Ok(Vec::new()),
        Read::Whole => {}
    }
    let object = match shelf.archive().get(&part.key, TABLE_BYTES).await {
        Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(Vec::new()),
        object => object?,
    };
    let is_listed = is_same(&part, &object) && object.bytes.len() as u64 == part.size;
    match computed(move || read_embeddings(object.bytes).map(|whole| picked(&whole, unknown))).await? {
        Ok(picked) => {
            for Picked { place, number, embedding } in picked {
                if let Some(number) = number.filter(|_| is_listed) {
                    shelf.vectors().keep(&part, number, embedding.clone());
                }
                known.push((place, embedding));
            }
            computed(move || score(&known, &query)).await
        }
        Err(error) => {
            tracing::warn!(part = part.key, %error, "a part cannot be read and its rows are left out");
            Ok(Vec::new())
        }
    }
}

/// What became of reading single embeddings.
enum Read {
    /// They are here, in the order in which they were wanted.
    Embeddings(Vec<Arc<[f16]>>),
    /// The part is gone.
    Gone,
    /// It has to be read whole.
    Whole,
}

async fn read(shelf: &Shelf, part: &Arc<PartStamp>, rows: &[Wanted]) -> Result<Read, ArchiveError> {
    if rows.is_empty() {
        return Ok(Read::Embeddings(Vec::new()));
    }
    let places = shelf.places().of(shelf.archive(), part).await?;
    let Some(Span { start, length, embeddings }) = places.and_then(|places| span(&places, rows)) else {
        return Ok(Read::Whole);
    };
    let bytes = match shelf.archive().get_range(&part.key, start, length).await {
        Ok(object) if is_same(part, &object) && object.bytes.len() as u64 == length => object.bytes,
        // Replaced since it was listed.
        Ok(_) => return Ok(Read::Whole),
        Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(Read::Gone),
        Err(error) => return Err(error.into()),
    };
    let embeddings = embeddings.into_iter().map(|(number, range)| {
        let embedding: Arc<[f16]> = EmbeddingPlaces::decode(&bytes[range]).into();
        shelf.vectors().keep(part, number, embedding.clone());
        embedding
    });
    Ok(Read::Embeddings(embeddings.collect()))
}

/// Bytes of a part that hold some embeddings.
struct Span {
    start: u64,
    length: u64,
    /// The number of each embedding and its range in these bytes.
    embeddings: Vec<(u64, Range<usize>)>,
}

/// The bytes with the embeddings of all `rows`; `None` unless the part has an embedding for each row with codes and no other.
fn span(places: &EmbeddingPlaces, rows: &[Wanted]) -> Option<Span> {
    let range = |row: &Wanted| {
        let (number, all) = row.number?;
        Some((number, places.range(number).filter(|_| all == places.len())?))
    };
    let ranges: Vec<(u64, Range<u64>)> = rows.iter().map(range).collect::<Option<_>>()?;
    let start = ranges.iter().map(|(_, range)| range.start).min()?;
    let end = ranges.iter().map(|(_, range)| range.end).max()?;
    let within = |(number, range): (u64, Range<u64>)| {
        Some((number, usize::try_from(range.start - start).ok()?..usize::try_from(range.end - start).ok()?))
    };
    let embeddings = ranges.into_iter().map(within).collect::<Option<_>>()?;
    Some(Span { start, length: end - start, embeddings })
}

fn score(embeddings: &[(Place, Arc<[f16]>)], query: &Query) -> Vec<(Place, f32)> {
    let mut scratch = Vec::new();
    let score = |(place, values): &(Place, Arc<[f16]>)| Some((*place, query.score(values, &mut scratch)?));
    embeddings.iter().filter_map(score).collect()
}

/// An embedding out of a part that was read whole.
struct Picked {
    place: Place,
    /// Which one of the embeddings of its part it is, if the index counts them as the part does.
    number: Option<u64>,
    embedding: Arc<[f16]>,
}

fn picked(part: &Embeddings, rows: Vec<Wanted>) -> Vec<Picked> {
    let length = part.shape.map_or(0, EmbeddingShape::len);
    let pick = |wanted: Wanted| {
        let same =
            |row: &usize| part.items[*row].as_str() == wanted.item && part.frame_ms[*row] == wanted.frame_ms;
        let row = (0..part.items.len()).find(same)?;
        let embedding = part.values.get(row * length..(row + 1) * length)?.into();
        let counted = (row as u64, part.items.len() as u64);
        let number = wanted.number.filter(|number| *number == counted).map(|(number, _)| number);
        Some(Picked { place: wanted.place, number, embedding })
    };
    rows.into_iter().filter_map(pick).collect()
}
