//! Reading whole rows.

use arrow_array::cast::AsArray;
use arrow_array::types::Float16Type;
use arrow_array::{Array, FixedSizeListArray, Float32Array, RecordBatch};
use bytes::Bytes;
use half::f16;

use super::answers::AnswersColumn;
use super::column::{EMBEDDING, NARROW, shape_of};
use super::{EmbeddingShape, Row, Status, TableError};
use crate::table::{self, Cells, TextColumn};

/// How much of a row is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Projection {
    /// All columns.
    #[default]
    All,
    /// All columns but `embedding`, which takes nearly all of a part's bytes; the field is `None`.
    WithoutEmbedding,
}

/// Reads all rows of a part, in their order.
pub fn read_part(bytes: Bytes, projection: Projection) -> Result<Vec<Row>, TableError> {
    let mut columns = NARROW.to_vec();
    if projection == Projection::All {
        columns.push(EMBEDDING);
    }
    table::read(bytes, &columns, append, Vec::new())
}

/// Reads all rows of a part, and how the vectors of those that have any are arranged.
pub fn read_shaped_part(bytes: Bytes) -> Result<(Vec<Row>, Option<EmbeddingShape>), TableError> {
    let mut columns = NARROW.to_vec();
    columns.push(EMBEDDING);
    let each =
        |(rows, shape): &mut (Vec<Row>, Option<EmbeddingShape>), batch: &RecordBatch, before: usize| {
            if shape.is_none()
                && batch.column_by_name(EMBEDDING).is_some_and(|lists| lists.null_count() < lists.len())
            {
                *shape = Some(shape_of(&batch.schema())?);
            }
            append(rows, batch, before)
        };
    table::read(bytes, &columns, each, (Vec::new(), None))
}

fn append(rows: &mut Vec<Row>, batch: &RecordBatch, before: usize) -> Result<(), TableError> {
    let cells = Cells { batch, before };
    let (item, frame_ms, span_ms) =
        (cells.text("item")?, cells.number("frame_ms")?, cells.number("span_ms")?);
    let frames = cells.number("frames")?;
    let (sha256, etag) = (cells.text("sha256")?, cells.text("etag")?);
    let (width, height) = (cells.number("width")?, cells.number("height")?);
    let status = cells.text("status")?;
    let (error_code, error_message) = (cells.text("error_code")?, cells.text("error_message")?);
    let (attempts, caption, tokens) =
        (cells.number("attempts")?, cells.text("caption")?, cells.number("tokens")?);
    let (answers, fields) = (AnswersColumn::of(batch)?, cells.text("fields")?);
    let (mean_logprob, stop_reason) = (cells.floats("mean_logprob")?, cells.text("stop_reason")?);
    let embedding = cells.lists(EMBEDDING)?;
    let (embedding_space, bundle) = (cells.text("embedding_space")?, cells.text("bundle")?);
    let adapter = cells.text("adapter")?;
    let (prompt_hash, duplicate_of) = (cells.text("prompt_hash")?, cells.text("duplicate_of")?);
    let (run, job, trace_id) = (cells.text("run")?, cells.text("job")?, cells.text("trace_id")?);
    let worker = cells.text("worker")?;
    let (device_seconds, device_joules) = (cells.floats("device_seconds")?, cells.floats("device_joules")?);
    let (started_at, finished_at) = (cells.time("started_at")?, cells.time("finished_at")?);
    rows.reserve(batch.num_rows());
    for row in 0..batch.num_rows() {
        rows.push(Row {
            item: item.parsed(row)?,
            frame_ms: frame_ms.get(row)?,
            span_ms: span_ms.get(row)?,
            frames: frames.get(row)?,
            sha256: sha256.owned(row),
            etag: etag.owned(row),
            width: width.get(row)?,
            height: height.get(row)?,
            status: status_at(&status, row)?,
            error_code: error_code.owned(row),
            error_message: error_message.owned(row),
            attempts: attempts.required(row)?,
            caption: caption.owned(row),
            answers: answers.get(row)?,
            fields: fields.owned(row),
            tokens: tokens.get(row)?,
            mean_logprob: float_at(mean_logprob, row),
            stop_reason: stop_reason.owned(row),
            embedding: embedding.map(|lists| list_at(lists, row)).transpose()?.flatten(),
            embedding_space: embedding_space.owned(row),
            bundle: bundle.owned(row),
            adapter: adapter.owned(row),
            prompt_hash: prompt_hash.required(row)?.to_owned(),
            duplicate_of: duplicate_of.owned(row),
            run: run.parsed(row)?,
            job: job.parsed(row)?,
            trace_id: trace_id.required(row)?.to_owned(),
            worker: worker.owned(row),
            device_seconds: float_at(device_seconds, row),
            device_joules: float_at(device_joules, row),
            started_at: started_at.get(row)?,
            finished_at: finished_at.required(row)?,
        });
    }
    Ok(())
}

pub(super) fn status_at(column: &TextColumn<'_>, row: usize) -> Result<Status, TableError> {
    let value = column.required(row)?;
    Status::from_column(value)
        .ok_or_else(|| column.wrong(row, format!("has the value `{}`", value.escape_debug())))
}

pub(super) fn float_at(values: Option<&Float32Array>, row: usize) -> Option<f32> {
    values.filter(|values| values.is_valid(row)).map(|values| values.value(row))
}

fn list_at(lists: &FixedSizeListArray, row: usize) -> Result<Option<Vec<f16>>, TableError> {
    if lists.is_null(row) {
        return Ok(None);
    }
    let values = values_of(lists)?;
    let length = lists.value_length() as usize;
    Ok(Some(values[row * length..(row + 1) * length].to_vec()))
}

/// All values of a column of embeddings, those of null rows included.
pub(super) fn values_of(lists: &FixedSizeListArray) -> Result<&[f16], TableError> {
    let values = lists.values().as_primitive_opt::<Float16Type>();
    let wrong =
        || TableError::Column { column: EMBEDDING, problem: format!("has the type {}", lists.data_type()) };
    values.map(|values| values.values().as_ref()).ok_or_else(wrong)
}
