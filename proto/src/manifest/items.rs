//! The items table of a run: which items were planned, and into which jobs.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, FieldRef};
use bytes::Bytes;
use serde_json::Map;

use crate::job::{JobId, JobItem};
use crate::table::{self, Cells, Format, TableError};

/// One planned item.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedItem {
    /// The item, as its job has it (without fields of later versions).
    pub item: JobItem,
    /// The job it was put into.
    pub job: JobId,
    /// Its place in the run, from zero.
    pub ordinal: u64,
}

const COLUMNS: [&str; 12] = [
    "item",
    "fetch",
    "etag",
    "size",
    "sha256",
    "frame_ms",
    "span_ms",
    "sample",
    "film_ms",
    "questions",
    "job",
    "ordinal",
];

const FORMAT: Format = Format { kind: "items", repetitive: &["sample", "job"], dense: None };

/// Writes one file of the items table, columns in this order: item, fetch, etag, size, sha256, frame_ms, span_ms,
/// sample (as JSON), film_ms, questions (as JSON), job, ordinal. Equal items yield equal bytes.
pub fn write_items(items: &[PlannedItem]) -> Result<Bytes, TableError> {
    for (at, planned) in items.iter().enumerate() {
        let JobItem { size, frame_ms, span_ms, film_ms, .. } = &planned.item;
        let numbers = [*size, *frame_ms, *span_ms, *film_ms, Some(planned.ordinal)];
        if numbers.into_iter().flatten().any(|value| i64::try_from(value).is_err()) {
            let problem = "has a number above 2^63 - 1".to_owned();
            return Err(TableError::Row { row: at, item: planned.item.uri.to_string(), problem });
        }
    }
    let samples: Vec<Option<String>> = items.iter().map(|planned| sample_text(&planned.item)).collect();
    let questions: Vec<Option<String>> = items.iter().map(|planned| questions_text(&planned.item)).collect();
    let columns: Vec<ArrayRef> = vec![
        texts(items, |planned| Some(planned.item.uri.as_str())),
        texts(items, |planned| planned.item.fetch.as_ref().map(AsRef::as_ref)),
        texts(items, |planned| planned.item.etag.as_deref()),
        numbers(items, |planned| planned.item.size),
        texts(items, |planned| planned.item.sha256.as_deref()),
        numbers(items, |planned| planned.item.frame_ms),
        numbers(items, |planned| planned.item.span_ms),
        Arc::new(samples.into_iter().collect::<StringArray>()),
        numbers(items, |planned| planned.item.film_ms),
        Arc::new(questions.into_iter().collect::<StringArray>()),
        texts(items, |planned| Some(planned.job.as_str())),
        numbers(items, |planned| Some(planned.ordinal)),
    ];
    let fields = COLUMNS.into_iter().zip(&columns).map(|(name, column)| {
        let nullable = !matches!(name, "item" | "job" | "ordinal");
        Arc::new(Field::new(name, column.data_type().clone(), nullable)) as FieldRef
    });
    let schema = table::schema_of(fields);
    table::write(&RecordBatch::try_new(schema, columns).map_err(TableError::parquet)?, &FORMAT)
}

/// Reads one file of the items table, in its order.
pub fn read_items(bytes: Bytes) -> Result<Vec<PlannedItem>, TableError> {
    table::read(bytes, &COLUMNS, append, Vec::new())
}

fn append(items: &mut Vec<PlannedItem>, batch: &RecordBatch, before: usize) -> Result<(), TableError> {
    let cells = Cells { batch, before };
    let (item, fetch, etag) = (cells.text("item")?, cells.text("fetch")?, cells.text("etag")?);
    let (size, sha256) = (cells.number("size")?, cells.text("sha256")?);
    let (frame_ms, span_ms) = (cells.number("frame_ms")?, cells.number("span_ms")?);
    let (sample, film_ms) = (cells.text("sample")?, cells.number("film_ms")?);
    let questions = cells.text("questions")?;
    let (job, ordinal) = (cells.text("job")?, cells.number("ordinal")?);
    items.reserve(batch.num_rows());
    for row in 0..batch.num_rows() {
        let item = JobItem {
            uri: item.parsed(row)?,
            fetch: fetch.get(row).is_some().then(|| fetch.parsed(row)).transpose()?,
            etag: etag.owned(row),
            size: size.get(row)?,
            sha256: sha256.owned(row),
            frame_ms: frame_ms.get(row)?,
            span_ms: span_ms.get(row)?,
            sample: sample
                .get(row)
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| sample.wrong(row, error))?,
            film_ms: film_ms.get(row)?,
            questions: questions
                .get(row)
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| questions.wrong(row, error))?
                .unwrap_or_default(),
            extra: Map::new(),
        };
        items.push(PlannedItem { item, job: job.parsed(row)?, ordinal: ordinal.required(row)? });
    }
    Ok(())
}

fn sample_text(item: &JobItem) -> Option<String> {
    item.sample.and_then(|sample| serde_json::to_string(&sample).ok())
}

fn questions_text(item: &JobItem) -> Option<String> {
    let asked = Some(&item.questions).filter(|questions| !questions.is_empty())?;
    serde_json::to_string(asked).ok()
}

fn texts<'a>(items: &'a [PlannedItem], value: impl Fn(&'a PlannedItem) -> Option<&'a str>) -> ArrayRef {
    Arc::new(items.iter().map(value).collect::<StringArray>())
}

/// Values that were found to fit.
fn numbers(items: &[PlannedItem], value: impl Fn(&PlannedItem) -> Option<u64>) -> ArrayRef {
    Arc::new(items.iter().map(|planned| value(planned).map(|value| value as i64)).collect::<Int64Array>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::uri::ItemUri;

    #[test]
    fn reads_back_what_it_wrote() {
        let mut framed = JobItem::new(ItemUri::s3("videos", "a b/ü.mp4"));
        framed.fetch = Some(ItemUri::s3("archive", "staged/ab/abcd"));
        framed.sample = Some(crate::job::Sampling::default());
        framed.etag = Some("\"abc\"".to_owned());
        framed.size = Some(i64::MAX as u64);
        framed.sha256 = Some("ab".repeat(32));
        framed.frame_ms = Some(0);
        framed.span_ms = Some(1000);
        framed.questions = vec![crate::job::Question::free("what is \"that\"?")];
        let plain = JobItem::new(ItemUri::parse("file:///p/%FF.jpg").unwrap());
        let planned: Vec<PlannedItem> = [framed, plain]
            .into_iter()
            .enumerate()
            .map(|(at, item)| PlannedItem {
                item,
                job: JobId::new("00000000-x").unwrap(),
                ordinal: at as u64,
            })
            .collect();
        let bytes = write_items(&planned).unwrap();
        assert_eq!(bytes, write_items(&planned).unwrap(), "writing is a function of the items");
        assert_eq!(read_items(bytes).unwrap(), planned);
        assert_eq!(read_items(write_items(&[]).unwrap()).unwrap(), Vec::new());
    }

    #[test]
    fn refuses_numbers_that_do_not_fit() {
        let mut item = JobItem::new(ItemUri::s3("b", "k"));
        item.size = Some(u64::MAX);
        let planned = PlannedItem { item, job: JobId::new("j").unwrap(), ordinal: 0 };
        assert!(matches!(write_items(&[planned]), Err(TableError::Row { row: 0, .. })));
    }
}
