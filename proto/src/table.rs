//! Parquet in and out of memory, for the two tables of an archive: parts and items.
//!
//! Reading survives any bytes: the parquet crate may panic on crafted input, which is caught here, and what the
//! footer claims is compared with what is there before anything is allocated for it.

mod cells;
mod error;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{FieldRef, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

pub(crate) use cells::{Cells, TextColumn};
pub use error::TableError;

/// Key of the version in a table's key-value metadata.
const VERSION_KEY: &str = "captionfleet.version";
/// Key of the table's kind in its key-value metadata.
const KIND_KEY: &str = "captionfleet.table";
/// Version that is written; another major is not read.
pub(crate) const TABLE_VERSION: &str = "1.0";

/// Rows decoded at a time: a full-size embedding takes 16 kB.
const BATCH_ROWS: usize = 1024;
/// Most rows that a footer may claim.
const MAX_ROWS: i64 = 1 << 26;

/// How a table is stored.
pub(crate) struct Format {
    /// Which table it is.
    pub(crate) kind: &'static str,
    /// Leaf columns that repeat few values.
    pub(crate) repetitive: &'static [&'static str],
    /// Leaf column of nearly random bits: stored as they are, so that a reader gets them at memory speed.
    pub(crate) dense: Option<&'static str>,
}

/// Encodes one batch as one Parquet object. Equal batches yield equal bytes.
pub(crate) fn write(batch: &RecordBatch, format: &Format) -> Result<Bytes, TableError> {
    write_noted(batch, format, None)
}

/// The same, with one more pair of key and value in the table's metadata.
pub(crate) fn write_noted(
    batch: &RecordBatch,
    format: &Format,
    note: Option<(&str, String)>,
) -> Result<Bytes, TableError> {
    let mut metadata = vec![
        KeyValue::new(VERSION_KEY.to_owned(), TABLE_VERSION.to_owned()),
        KeyValue::new(KIND_KEY.to_owned(), format.kind.to_owned()),
    ];
    metadata.extend(note.map(|(key, value)| KeyValue::new(key.to_owned(), value)));
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).map_err(TableError::parquet)?);
    let mut properties = WriterProperties::builder()
        .set_compression(zstd)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("captionfleet ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(metadata));
    for column in format.repetitive {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(*column), true);
    }
    if let Some(dense) = format.dense {
        let path = ColumnPath::new(dense.split('.').map(str::to_owned).collect());
        properties = properties
            .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build()))
        .map_err(TableError::parquet)?;
    writer.write(batch).map_err(TableError::parquet)?;
    Ok(writer.into_inner().map_err(TableError::parquet)?.into())
}

/// Decodes the named top-level columns of a table, those that it has, and hands every batch to `each` with the
/// number of rows before it.
pub(crate) fn read<T>(
    bytes: Bytes,
    columns: &[&str],
    mut each: impl FnMut(&mut T, &RecordBatch, usize) -> Result<(), TableError>,
    into: T,
) -> Result<T, TableError> {
    let decode = move || {
        let mut into = into;
        let length = bytes.len() as u64;
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load(&bytes, options).map_err(TableError::parquet)?;
        check(metadata.metadata(), length)?;
        let mask = ProjectionMask::columns(metadata.parquet_schema(), columns.iter().copied());
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata)
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(TableError::parquet)?;
        let mut rows = 0;
        for batch in reader {
            let batch = batch.map_err(TableError::parquet)?;
            each(&mut into, &batch, rows)?;
            rows += batch.num_rows();
        }
        Ok(into)
    };
    contained(decode)
}

/// The value of `key` in a table's metadata.
pub(crate) fn note(bytes: &Bytes, key: &str) -> Result<Option<String>, TableError> {
    contained(|| {
        let metadata =
            ArrowReaderMetadata::load(bytes, ArrowReaderOptions::new()).map_err(TableError::parquet)?;
        Ok(noted(metadata.metadata(), key).map(str::to_owned))
    })
}

pub(crate) fn contained<T>(decode: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(TableError::damaged("the decoder gave up")))
}

fn noted<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
}

/// Compares what the footer claims with what is there.
pub(crate) fn check(metadata: &ParquetMetaData, length: u64) -> Result<(), TableError> {
    let file = metadata.file_metadata();
    let version = noted(metadata, VERSION_KEY);
    if let Some(version) = version.filter(|version| version.split('.').next() != Some("1")) {
        return Err(TableError::UnknownVersion(version.escape_debug().take(40).collect()));
    }
    let mut rows = 0_i64;
    for group in metadata.row_groups() {
        if !(0..=MAX_ROWS).contains(&group.num_rows()) {
            return Err(TableError::damaged("the footer claims an impossible number of rows"));
        }
        rows += group.num_rows();
        for column in group.columns() {
            let starts = [Some(column.data_page_offset()), column.dictionary_page_offset()];
            let start = starts.into_iter().flatten().min().unwrap_or(0);
            let end = start.checked_add(column.compressed_size()).unwrap_or(i64::MAX);
            if start < 0 || column.compressed_size() < 0 || end as u64 > length {
                return Err(TableError::damaged("the footer points outside the object"));
            }
        }
    }
    if rows > MAX_ROWS || rows != file.num_rows() {
        return Err(TableError::damaged("the footer claims an impossible number of rows"));
    }
    Ok(())
}

/// A schema of these fields.
pub(crate) fn schema_of(fields: impl IntoIterator<Item = FieldRef>) -> Arc<Schema> {
    Arc::new(Schema::new(fields.into_iter().collect::<Vec<_>>()))
}
