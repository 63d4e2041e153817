//! The columns: names, order, types.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};

use super::answers::{self, ANSWERS};
use super::{EmbeddingShape, TableError};
use crate::table::{Format, schema_of};

pub(super) const EMBEDDING: &str = "embedding";
/// Key of the embedding column's field metadata: `[vectors,dim]`, as JSON.
const SHAPE_KEY: &str = "shape";

/// How parts are stored.
pub(super) const FORMAT: Format = Format {
    kind: "rows",
    repetitive: &[
        "status",
        "error_code",
        "stop_reason",
        "embedding_space",
        "bundle",
        "adapter",
        "prompt_hash",
        "run",
        "job",
        "trace_id",
        "worker",
    ],
    dense: Some("embedding.list.element"),
};

/// All columns but the embedding.
pub(super) const NARROW: [&str; 31] = [
    "item",
    "frame_ms",
    "span_ms",
    "frames",
    "sha256",
    "etag",
    "width",
    "height",
    "status",
    "error_code",
    "error_message",
    "attempts",
    "caption",
    ANSWERS,
    "fields",
    "tokens",
    "mean_logprob",
    "stop_reason",
    "embedding_space",
    "bundle",
    "adapter",
    "prompt_hash",
    "duplicate_of",
    "run",
    "job",
    "trace_id",
    "worker",
    "device_seconds",
    "device_joules",
    "started_at",
    "finished_at",
];

/// The Arrow schema of a part whose embeddings have `shape`.
///
/// Integers are signed, because Spark's Parquet reader knows no others.
pub fn schema(shape: EmbeddingShape) -> Result<Arc<Schema>, TableError> {
    let embedding = embedding_field(shape)?;
    Ok(schema_of([
        required("item", DataType::Utf8),
        optional("frame_ms", DataType::Int64),
        optional("span_ms", DataType::Int64),
        optional("frames", DataType::Int32),
        optional("sha256", DataType::Utf8),
        optional("etag", DataType::Utf8),
        optional("width", DataType::Int32),
        optional("height", DataType::Int32),
        required("status", DataType::Utf8),
        optional("error_code", DataType::Utf8),
        optional("error_message", DataType::Utf8),
        required("attempts", DataType::Int32),
        optional("caption", DataType::Utf8),
        optional(ANSWERS, answers::data_type()),
        optional("fields", DataType::Utf8),
        optional("tokens", DataType::Int32),
        optional("mean_logprob", DataType::Float32),
        optional("stop_reason", DataType::Utf8),
        embedding,
        optional("embedding_space", DataType::Utf8),
        optional("bundle", DataType::Utf8),
        optional("adapter", DataType::Utf8),
        required("prompt_hash", DataType::Utf8),
        optional("duplicate_of", DataType::Utf8),
        required("run", DataType::Utf8),
        required("job", DataType::Utf8),
        required("trace_id", DataType::Utf8),
        optional("worker", DataType::Utf8),
        optional("device_seconds", DataType::Float32),
        optional("device_joules", DataType::Float32),
        optional("started_at", instant()),
        required("finished_at", instant()),
    ]))
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn embedding_field(shape: EmbeddingShape) -> Result<FieldRef, TableError> {
    let EmbeddingShape { vectors, dim } = shape;
    let length = i32::try_from(u64::from(vectors) * u64::from(dim)).ok().filter(|length| *length > 0);
    let length = length.ok_or(TableError::Shape { vectors, dim })?;
    let list = DataType::FixedSizeList(Arc::new(value_field()), length);
    let metadata = HashMap::from([(SHAPE_KEY.to_owned(), format!("[{vectors},{dim}]"))]);
    Ok(Arc::new(Field::new(EMBEDDING, list, true).with_metadata(metadata)))
}

/// One value of an embedding; `element` is the name that the Parquet specification gives it.
pub(super) fn value_field() -> Field {
    Field::new("element", DataType::Float16, false)
}

/// The shape that an embedding column was written with.
pub(super) fn shape_of(schema: &Schema) -> Result<EmbeddingShape, TableError> {
    let wrong = |problem: String| TableError::Column { column: EMBEDDING, problem };
    let field = schema.field_with_name(EMBEDDING).map_err(|_| wrong("is missing".to_owned()))?;
    let DataType::FixedSizeList(_, length) = field.data_type() else {
        return Err(wrong(format!("has the type {}", field.data_type())));
    };
    let shape = field.metadata().get(SHAPE_KEY).map(String::as_str);
    let parsed: Option<[u32; 2]> = shape.and_then(|shape| serde_json::from_str(shape).ok());
    let shape = match parsed {
        Some([vectors, dim]) => EmbeddingShape { vectors, dim },
        None => return Err(wrong("has no shape in its metadata".to_owned())),
    };
    if shape.len() != usize::try_from(*length).unwrap_or(0) {
        return Err(wrong(format!("has the shape {}x{} and {length} values", shape.vectors, shape.dim)));
    }
    Ok(shape)
}

fn required(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, false))
}

fn optional(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}
