//! The column of answers: a list of structures, as DuckDB, Polars and pyarrow unnest it.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields};

use super::{Row, TableError};

pub(super) const ANSWERS: &str = "answers";

/// What was said to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// The name of its value in the row's `fields`.
    pub name: Option<String>,
    /// What was said, or the answer that fits best.
    pub answer: String,
    /// The share of that answer among all that were allowed, 0 to 1; absent for free answers.
    pub probability: Option<f32>,
}

/// `list<struct<question, name, answer, probability>>`.
pub(super) fn data_type() -> DataType {
    DataType::List(Arc::new(element()))
}

fn element() -> Field {
    Field::new("element", DataType::Struct(fields()), false)
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("question", DataType::Utf8, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("answer", DataType::Utf8, false),
        Field::new("probability", DataType::Float32, true),
    ])
}

/// The column of `rows`.
pub(super) fn column(rows: &[Row]) -> Result<ArrayRef, TableError> {
    let all: Vec<&Answer> = rows.iter().flat_map(|row| row.answers.iter().flatten()).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all.iter().map(|answer| Some(answer.question.as_str())).collect::<StringArray>()),
        Arc::new(all.iter().map(|answer| answer.name.as_deref()).collect::<StringArray>()),
        Arc::new(all.iter().map(|answer| Some(answer.answer.as_str())).collect::<StringArray>()),
        Arc::new(all.iter().map(|answer| answer.probability).collect::<Float32Array>()),
    ];
    let values = StructArray::try_new(fields(), columns, None).map_err(TableError::parquet)?;
    let lengths = rows.iter().map(|row| row.answers.as_ref().map_or(0, Vec::len));
    let present: NullBuffer = rows.iter().map(|row| row.answers.is_some()).collect();
    let offsets = OffsetBuffer::from_lengths(lengths);
    let lists = ListArray::try_new(Arc::new(element()), offsets, Arc::new(values), Some(present));
    Ok(Arc::new(lists.map_err(TableError::parquet)?))
}

/// Reads the column; tables of earlier versions have none.
pub(super) struct AnswersColumn<'a> {
    lists: Option<&'a ListArray>,
}

impl<'a> AnswersColumn<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Result<Self, TableError> {
        let Some(column) = batch.column_by_name(ANSWERS) else { return Ok(Self { lists: None }) };
        let lists = column.as_list_opt::<i32>().ok_or_else(|| wrong(column.data_type()))?;
        Ok(Self { lists: Some(lists) })
    }

    /// Whether a row has answers, whatever they are.
    pub(super) fn has(&self, row: usize) -> bool {
        self.lists.is_some_and(|lists| lists.is_valid(row))
    }

    pub(super) fn get(&self, row: usize) -> Result<Option<Vec<Answer>>, TableError> {
        let Some(lists) = self.lists.filter(|lists| lists.is_valid(row)) else { return Ok(None) };
        let values = lists.value(row);
        let values = values.as_struct_opt().ok_or_else(|| wrong(lists.data_type()))?;
        let texts = |name: &str| {
            let column = values.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
            column.ok_or_else(|| wrong(values.data_type()))
        };
        let (question, name, answer) = (texts("question")?, texts("name")?, texts("answer")?);
        let probability = values
            .column_by_name("probability")
            .and_then(|column| column.as_primitive_opt::<Float32Type>())
            .ok_or_else(|| wrong(values.data_type()))?;
        let one = |at: usize| Answer {
            question: question.value(at).to_owned(),
            name: name.is_valid(at).then(|| name.value(at).to_owned()),
            answer: answer.value(at).to_owned(),
            probability: probability.is_valid(at).then(|| probability.value(at)),
        };
        Ok(Some((0..values.len()).map(one).collect()))
    }
}

fn wrong(data_type: &DataType) -> TableError {
    TableError::Column { column: ANSWERS, problem: format!("has the type {data_type}") }
}
