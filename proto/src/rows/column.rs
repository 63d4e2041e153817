//! The columns: names, order, types.

use arrow_schema::Schema;

use super::EmbeddingShape;

/// Version of the schema, stored in every table's key-value metadata as `captionfleet.version`.
pub const ROWS_VERSION: &str = "1.0";

/// The Arrow schema of a part whose embeddings have `shape`.
pub fn schema(shape: EmbeddingShape) -> Schema {
    let _ = shape;
    Schema::empty()
}
