//! Writing parts.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::NullBuffer;
use bytes::Bytes;
use half::f16;
use jiff::Timestamp;

use super::answers;
use super::column::{FORMAT, schema, value_field};
use super::{EmbeddingShape, Row, Status, TableError};
use crate::table;

/// Encodes the rows of one job. Equal rows yield equal bytes.
///
/// Checks that `ok` rows have a caption and no error, that others have an error code, and that embeddings have
/// `shape`, finite values and a space.
pub fn write_part(rows: &[Row], shape: EmbeddingShape) -> Result<Bytes, TableError> {
    table::write(&batch_of(rows, shape)?, &FORMAT)
}

/// The rows as columns, after the checks of [`write_part`].
pub(super) fn batch_of(rows: &[Row], shape: EmbeddingShape) -> Result<RecordBatch, TableError> {
    let schema = schema(shape)?;
    for (at, row) in rows.iter().enumerate() {
        let item = || row.item.to_string();
        check(row, shape).map_err(|problem| TableError::Row { row: at, item: item(), problem })?;
    }
    let columns: Vec<ArrayRef> = vec![
        texts(rows, |row| Some(row.item.as_str())),
        wide(rows, |row| row.frame_ms),
        wide(rows, |row| row.span_ms),
        narrow(rows, |row| row.frames),
        texts(rows, |row| row.sha256.as_deref()),
        texts(rows, |row| row.etag.as_deref()),
        narrow(rows, |row| row.width),
        narrow(rows, |row| row.height),
        texts(rows, |row| Some(row.status.as_str())),
        texts(rows, |row| row.error_code.as_deref()),
        texts(rows, |row| row.error_message.as_deref()),
        narrow(rows, |row| Some(row.attempts)),
        texts(rows, |row| row.caption.as_deref()),
        answers::column(rows)?,
        texts(rows, |row| row.fields.as_deref()),
        narrow(rows, |row| row.tokens),
        Arc::new(rows.iter().map(|row| row.mean_logprob).collect::<Float32Array>()),
        texts(rows, |row| row.stop_reason.as_deref()),
        Arc::new(embeddings(rows, shape)?),
        texts(rows, |row| row.embedding_space.as_deref()),
        texts(rows, |row| row.bundle.as_deref()),
        texts(rows, |row| row.adapter.as_deref()),
        texts(rows, |row| Some(&row.prompt_hash)),
        texts(rows, |row| row.duplicate_of.as_deref()),
        texts(rows, |row| Some(row.run.as_str())),
        texts(rows, |row| Some(row.job.as_str())),
        texts(rows, |row| Some(&row.trace_id)),
        texts(rows, |row| row.worker.as_deref()),
        Arc::new(rows.iter().map(|row| row.device_seconds).collect::<Float32Array>()),
        Arc::new(rows.iter().map(|row| row.device_joules).collect::<Float32Array>()),
        instants(rows, |row| row.started_at),
        instants(rows, |row| Some(row.finished_at)),
    ];
    RecordBatch::try_new(schema, columns).map_err(TableError::parquet)
}

/// The rule that the row breaks, if any.
fn check(row: &Row, shape: EmbeddingShape) -> Result<(), String> {
    if row.status == Status::Ok {
        if row.caption.is_none() {
            return Err("has status ok and no caption".to_owned());
        }
        if row.error_code.is_some() || row.error_message.is_some() {
            return Err("has status ok and an error".to_owned());
        }
    } else if row.error_code.is_none() {
        return Err(format!("has status {} and no error_code", row.status.as_str()));
    }
    if row.embedding.is_some() != row.embedding_space.is_some() {
        return Err("must have both embedding and embedding_space, or neither".to_owned());
    }
    if let Some(values) = &row.embedding {
        if values.len() != shape.len() {
            return Err(format!("has an embedding of {} values instead of {}", values.len(), shape.len()));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err("has an embedding value that is not finite".to_owned());
        }
    }
    if row.device_seconds.is_some_and(|seconds| !(0.0..f32::INFINITY).contains(&seconds)) {
        return Err("has a device time that is not a time".to_owned());
    }
    if row.device_joules.is_some_and(|joules| !(0.0..f32::INFINITY).contains(&joules)) {
        return Err("has a device energy that is not an energy".to_owned());
    }
    if [row.frame_ms, row.span_ms].into_iter().flatten().any(|value| i64::try_from(value).is_err()) {
        return Err("has a time above 2^63 - 1 ms".to_owned());
    }
    let small = [row.width, row.height, row.frames, Some(row.attempts), row.tokens];
    if small.into_iter().flatten().any(|value| i32::try_from(value).is_err()) {
        return Err("has a width, height, frame, token or attempt count above 2^31 - 1".to_owned());
    }
    Ok(())
}

fn texts<'a>(rows: &'a [Row], value: impl Fn(&'a Row) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

fn instants(rows: &[Row], value: impl Fn(&Row) -> Option<Timestamp>) -> ArrayRef {
    let microseconds = rows.iter().map(|row| value(row).map(Timestamp::as_microsecond));
    Arc::new(microseconds.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// Values that `check` found to fit.
fn wide(rows: &[Row], value: impl Fn(&Row) -> Option<u64>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| value(row).map(|value| value as i64)).collect::<Int64Array>())
}

/// Values that `check` found to fit.
fn narrow(rows: &[Row], value: impl Fn(&Row) -> Option<u32>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| value(row).map(|value| value as i32)).collect::<Int32Array>())
}

/// Rows without an embedding take zeros and a null flag.
fn embeddings(rows: &[Row], shape: EmbeddingShape) -> Result<FixedSizeListArray, TableError> {
    let mut values = Vec::with_capacity(rows.len() * shape.len());
    for row in rows {
        match &row.embedding {
            Some(embedding) => values.extend_from_slice(embedding),
            None => values.resize(values.len() + shape.len(), f16::ZERO),
        }
    }
    let present: NullBuffer = rows.iter().map(|row| row.embedding.is_some()).collect();
    let values = Arc::new(Float16Array::from(values));
    FixedSizeListArray::try_new(Arc::new(value_field()), shape.len() as i32, values, Some(present))
        .map_err(TableError::parquet)
}
