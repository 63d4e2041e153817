//! The fast path of exact search: embeddings and what a hit shows, nothing else.

use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use half::f16;
use jiff::Timestamp;

use super::answers::{ANSWERS, AnswersColumn};
use super::column::{EMBEDDING, shape_of};
use super::read::{status_at, values_of};
use super::{EmbeddingShape, Status, TableError};
use crate::table::{self, Cells};
use crate::uri::ItemUri;

/// The embedded rows of one part, column by column. All have the same length but `values`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// The items.
    pub items: Vec<ItemUri>,
    /// Times of videos' frames.
    pub frame_ms: Vec<Option<u64>>,
    /// Their captions, or what was answered.
    pub captions: Vec<Option<String>>,
    /// Whether questions were answered.
    pub answered: Vec<bool>,
    /// The digests of the bytes that they are of, or their versions where there is none.
    pub contents: Vec<Option<String>>,
    /// Their spaces.
    pub spaces: Vec<String>,
    /// When their rows were made.
    pub finished_at: Vec<Timestamp>,
    /// How `values` is arranged; absent when no row has an embedding.
    pub shape: Option<EmbeddingShape>,
    /// `items.len() × vectors × dim` values.
    pub values: Vec<f16>,
}

/// Reads the rows of status `ok` that have an embedding.
pub fn read_embeddings(bytes: Bytes) -> Result<Embeddings, TableError> {
    table::read(bytes, &COLUMNS, append, Embeddings::default())
}

const COLUMNS: [&str; 10] = [
    "item",
    "frame_ms",
    "sha256",
    "etag",
    "status",
    "caption",
    ANSWERS,
    EMBEDDING,
    "embedding_space",
    "finished_at",
];

fn append(into: &mut Embeddings, batch: &RecordBatch, before: usize) -> Result<(), TableError> {
    let cells = Cells { batch, before };
    let (item, frame_ms, caption) = (cells.text("item")?, cells.number("frame_ms")?, cells.text("caption")?);
    let (status, space, finished_at) =
        (cells.text("status")?, cells.text("embedding_space")?, cells.time("finished_at")?);
    let (sha256, etag, answers) = (cells.text("sha256")?, cells.text("etag")?, AnswersColumn::of(batch)?);
    let Some(lists) = cells.lists(EMBEDDING)? else {
        return Ok(());
    };
    let values = values_of(lists)?;
    let length = lists.value_length() as usize;
    for row in 0..batch.num_rows() {
        if lists.is_null(row) || status_at(&status, row)? != Status::Ok {
            continue;
        }
        if into.shape.is_none() {
            into.shape = Some(shape_of(&batch.schema())?);
        }
        into.items.push(item.parsed(row)?);
        into.frame_ms.push(frame_ms.get(row)?);
        into.captions.push(caption.owned(row));
        into.answered.push(answers.has(row));
        into.contents.push(sha256.owned(row).or_else(|| etag.owned(row)));
        into.spaces.push(space.required(row)?.to_owned());
        into.finished_at.push(finished_at.required(row)?);
        into.values.extend_from_slice(&values[row * length..(row + 1) * length]);
    }
    Ok(())
}
