//! Where the embeddings of a part lie, so that those of single rows can be read out of it.
//!
//! Parts store embeddings as they are, one behind the other: uncompressed, in plain encoding, at the end of their pages
//! (Parquet format, "Data Pages"). What stands before them in a page need not be known to find them.

use std::ops::Range;

use bytes::Bytes;
use half::f16;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{Compression, Encoding, Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::column::{EMBEDDING, shape_of};
use super::{EmbeddingShape, TableError};
use crate::table;

/// Bytes of a value.
const VALUE: u64 = 2;

/// Places of embeddings in one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingPlaces {
    shape: EmbeddingShape,
    /// Where each page ends in the object, and how many embeddings lie before that end, in this page and those before it.
    pages: Vec<(u64, u64)>,
}

/// What the end of a part says of its embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartTail {
    /// Where they are.
    Places(EmbeddingPlaces),
    /// Nothing: so many bytes of the end are needed.
    Short(u64),
    /// They are stored in another way; the part has to be read whole.
    Otherwise,
}

impl EmbeddingPlaces {
    /// Reads the last bytes of a part of `size` bytes; 32 KiB are enough for all but strange ones.
    ///
    /// # Errors
    /// When this is not the end of a part.
    pub fn read(tail: &Bytes, size: u64) -> Result<PartTail, TableError> {
        table::contained(|| {
            let mut reader = ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Optional);
            match reader.try_parse_sized(tail, size) {
                Err(ParquetError::NeedMoreData(needed)) => return Ok(PartTail::Short(needed as u64)),
                parsed => parsed.map_err(TableError::parquet)?,
            }
            let metadata = reader.finish().map_err(TableError::parquet)?;
            table::check(&metadata, size)?;
            Ok(Self::of(&metadata)?.map_or(PartTail::Otherwise, PartTail::Places))
        })
    }

    fn of(metadata: &ParquetMetaData) -> Result<Option<Self>, TableError> {
        let file = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())
            .map_err(TableError::parquet)?;
        let shape = shape_of(&schema)?;
        let [group] = metadata.row_groups() else { return Ok(None) };
        let is_ours = |column: &ColumnChunkMetaData| {
            column.column_path().parts().first().is_some_and(|name| name == EMBEDDING)
        };
        let Some(number) = group.columns().iter().position(is_ours) else { return Ok(None) };
        let column = group.column(number);
        let index = metadata.page_index_for_row_group(0);
        let Some(index) = index.offset_index(number).filter(|_| is_plain(column)) else { return Ok(None) };
        let pages = index.page_locations();
        // A row without an embedding is one empty value.
        let (rows, values) = (group.num_rows(), column.num_values());
        let length = shape.len() as i64;
        let embedded = match length {
            2.. => (values - rows) / (length - 1),
            _ => return Ok(None),
        };
        if embedded < 0 || embedded > rows || rows + embedded * (length - 1) != values {
            return Ok(None);
        }
        // Pages do not say how many of their rows have one: known where it is all of them, or where there is but one page.
        if embedded != rows && pages.len() > 1 {
            return Ok(None);
        }
        let mut places = Vec::with_capacity(pages.len());
        for (at, page) in pages.iter().enumerate() {
            let until = pages.get(at + 1).map_or(embedded, |next| next.first_row_index);
            let (Ok(from), Ok(bytes)) =
                (u64::try_from(page.offset), u64::try_from(page.compressed_page_size))
            else {
                return Ok(None);
            };
            let before = places.last().map_or(0, |(_, before)| *before);
            let until = u64::try_from(until).unwrap_or(0);
            let held = until.checked_sub(before).and_then(|rows| rows.checked_mul(length as u64 * VALUE));
            if held.is_none_or(|held| held > bytes) {
                return Ok(None);
            }
            places.push((from + bytes, until));
        }
        Ok(Some(Self { shape, pages: places }))
    }

    /// How many rows have an embedding.
    pub fn len(&self) -> u64 {
        self.pages.last().map_or(0, |(_, until)| *until)
    }

    /// Whether no row has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of an embedding.
    pub fn values(&self) -> usize {
        self.shape.len()
    }

    /// The bytes of the part in which the embedding of the `number`th row that has one lies, from 0.
    pub fn range(&self, number: u64) -> Option<Range<u64>> {
        let page = self.pages.partition_point(|(_, until)| *until <= number);
        let (end, until) = self.pages.get(page)?;
        let length = self.shape.len() as u64 * VALUE;
        let start = end.checked_sub((until - number) * length)?;
        Some(start..start + length)
    }

    /// The values in the bytes that [`Self::range`] names.
    pub fn decode(bytes: &[u8]) -> Vec<f16> {
        bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect()
    }
}

fn is_plain(column: &ColumnChunkMetaData) -> bool {
    column.compression() == Compression::UNCOMPRESSED
        && column.column_type() == Type::FIXED_LEN_BYTE_ARRAY
        && column.dictionary_page_offset().is_none()
        && column.encodings().all(|encoding| matches!(encoding, Encoding::PLAIN | Encoding::RLE))
}
