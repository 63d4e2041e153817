//! Exact search over the parts of an archive: each part is read once, scored, and let go.

use super::{Candidate, Query, Ranking};
use crate::archive::{self, ArchiveError, TABLE_BYTES};
use bytes::Bytes;
use captionfleet_index::content_key;
use captionfleet_proto::rows::{Embeddings, TableError, read_embeddings};
use captionfleet_proto::storage::Storage;
use futures::StreamExt as _;
use rayon::prelude::*;

/// Parts in memory at once: a part of 64 pictures has about a megabyte of vectors.
const PARTS_AT_ONCE: usize = 16;
/// Pictures that one thread scores in a row.
const ROWS_PER_TASK: usize = 256;

/// Why an archive cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// It cannot be reached.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The program itself failed.
    #[error("searching was interrupted; please report this")]
    Interrupted,
}

/// Scores every picture whose embedding lies in `space`. Damaged parts are left out and counted.
pub async fn rank(archive: &dyn Storage, query: Query, space: &str) -> Result<(Ranking, u64), SearchError> {
    let parts = archive::parts(archive, None).await?;
    let reads = parts.into_values().flatten().map(|(_, key)| {
        let (query, space) = (query.clone(), space.to_owned());
        async move {
            let object = archive.get(&key, TABLE_BYTES).await.map_err(ArchiveError::from)?;
            let scored = tokio::task::spawn_blocking(move || score(object.bytes, &query, &space)).await;
            scored.map(|scored| (key, scored)).map_err(|_| SearchError::Interrupted)
        }
    });
    let mut read = futures::stream::iter(reads).buffer_unordered(PARTS_AT_ONCE);
    let (mut ranking, mut damaged) = (Ranking::default(), 0);
    while let Some(part) = read.next().await {
        let (key, part) = part?;
        match part {
            Ok(part) => ranking.merge(part),
            Err(error) => {
                tracing::warn!(part = key, %error, "a part cannot be read and is left out of the search");
                damaged += 1;
            }
        }
    }
    Ok((ranking, damaged))
}

fn score(bytes: Bytes, query: &Query, space: &str) -> Result<Ranking, TableError> {
    let rows = read_embeddings(bytes)?;
    let mut ranking = Ranking::default();
    for foreign in rows.spaces.iter().filter(|row| *row != space) {
        ranking.add_foreign(foreign, 1);
    }
    let Some(shape) = rows.shape else {
        return Ok(ranking);
    };
    let length = shape.len();
    let places: Vec<usize> = (0..rows.items.len()).filter(|&row| rows.spaces[row] == space).collect();
    let scored: Vec<Candidate> = places
        .par_chunks(ROWS_PER_TASK)
        .flat_map_iter(|chunk| {
            let mut scratch = Vec::new();
            chunk
                .iter()
                .filter_map(|&row| candidate(&rows, row, length, query, &mut scratch))
                .collect::<Vec<_>>()
        })
        .collect();
    for candidate in scored {
        ranking.add(candidate);
    }
    Ok(ranking)
}

fn candidate(
    rows: &Embeddings,
    row: usize,
    length: usize,
    query: &Query,
    scratch: &mut Vec<f32>,
) -> Option<Candidate> {
    let vectors = rows.values.get(row * length..(row + 1) * length)?;
    Some(Candidate {
        item: rows.items[row].to_string(),
        frame_ms: rows.frame_ms[row],
        caption: rows.captions[row].clone().unwrap_or_default(),
        is_answer: rows.answered[row],
        content: rows.contents[row].as_deref().map_or(0, content_key),
        score: query.score(vectors, scratch)?,
        finished_at: rows.finished_at[row],
    })
}
