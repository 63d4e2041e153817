//! Examples to train on: pictures with what shall be said about them.
//!
//! Any Parquet table will do that has a `caption` and either an `item` (as rows of an archive have it, or a path) or a
//! `picture` with the file's bytes; a `question` makes the caption its answer. Where a table has a `status`, as the parts of an
//! archive, only rows that are `ok` count, and frames of videos do not.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use bytes::Bytes;

use crate::table::{self, Format, TableError, schema_of};

const FORMAT: Format = Format { kind: "examples", repetitive: &["item", "question"], dense: None };
const COLUMNS: [&str; 6] = ["item", "picture", "caption", "question", "status", "frame_ms"];

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Where the picture is.
    pub picture: Picture,
    /// What shall be said.
    pub caption: String,
    /// What is asked; a description otherwise.
    pub question: Option<String>,
}

/// An example's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Picture {
    /// A URI or a path.
    At(String),
    /// The file itself.
    Bytes(Bytes),
}

/// Reads the usable examples of a table.
pub fn read_examples(bytes: Bytes) -> Result<Vec<Example>, TableError> {
    table::read(bytes, &COLUMNS, append, Vec::new())
}

/// Encodes examples whose pictures are named.
pub fn write_examples(examples: &[Example]) -> Result<Bytes, TableError> {
    let at = |example: &Example| match &example.picture {
        Picture::At(place) => Some(place.clone()),
        Picture::Bytes(_) => None,
    };
    let text = |name: &str, optional| Arc::new(Field::new(name, DataType::Utf8, optional));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(examples.iter().map(at).collect::<StringArray>()),
        Arc::new(examples.iter().map(|example| Some(&example.caption)).collect::<StringArray>()),
        Arc::new(examples.iter().map(|example| example.question.as_ref()).collect::<StringArray>()),
    ];
    let schema = schema_of([text("item", true), text("caption", false), text("question", true)]);
    table::write(&RecordBatch::try_new(schema, columns).map_err(TableError::parquet)?, &FORMAT)
}

fn append(examples: &mut Vec<Example>, batch: &RecordBatch, _before: usize) -> Result<(), TableError> {
    let [item, picture, caption, question, status, frame] = COLUMNS.map(|name| batch.column_by_name(name));
    let Some(caption) = caption else {
        return Err(TableError::Column { column: "caption", problem: "is missing".to_owned() });
    };
    if item.is_none() && picture.is_none() {
        return Err(TableError::Column {
            column: "item",
            problem: "is missing, and so is `picture`".to_owned(),
        });
    }
    for row in 0..batch.num_rows() {
        let is_frame = frame.is_some_and(|frame| frame.is_valid(row));
        let is_ok = match status {
            Some(status) => text(status, "status", row)?.is_none_or(|status| status == "ok"),
            None => true,
        };
        let Some(caption) = text(caption, "caption", row)?.filter(|text| !text.trim().is_empty()) else {
            continue;
        };
        if is_frame || !is_ok {
            continue;
        }
        let bytes = picture.map(|picture| binary(picture, row)).transpose()?.flatten();
        let place = item.map(|item| text(item, "item", row)).transpose()?.flatten();
        let picture = match (bytes, place) {
            (Some(bytes), _) => Picture::Bytes(bytes),
            (None, Some(place)) => Picture::At(place.to_owned()),
            (None, None) => continue,
        };
        let question = question.map(|column| text(column, "question", row)).transpose()?.flatten();
        examples.push(Example {
            picture,
            caption: caption.to_owned(),
            question: question.map(str::to_owned),
        });
    }
    Ok(())
}

/// Other programs write text in three ways.
fn text<'a>(column: &'a ArrayRef, name: &'static str, row: usize) -> Result<Option<&'a str>, TableError> {
    if column.is_null(row) {
        return Ok(None);
    }
    let plain = column.as_string_opt::<i32>().map(|array| array.value(row));
    let large = || column.as_string_opt::<i64>().map(|array| array.value(row));
    let view = || column.as_string_view_opt().map(|array| array.value(row));
    plain.or_else(large).or_else(view).map(Some).ok_or_else(|| TableError::Column {
        column: name,
        problem: format!("has the type {}, not text", column.data_type()),
    })
}

fn binary(column: &ArrayRef, row: usize) -> Result<Option<Bytes>, TableError> {
    if column.is_null(row) {
        return Ok(None);
    }
    let plain = column.as_binary_opt::<i32>().map(|array| array.value(row));
    let large = || column.as_binary_opt::<i64>().map(|array| array.value(row));
    let view = || column.as_binary_view_opt().map(|array| array.value(row));
    let bytes = plain.or_else(large).or_else(view).map(Bytes::copy_from_slice);
    bytes.map(Some).ok_or_else(|| TableError::Column {
        column: "picture",
        problem: format!("has the type {}, not bytes", column.data_type()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow_array::{BinaryArray, LargeStringArray};

    use super::*;

    #[test]
    fn examples_come_back() {
        let example = |item: &str, question: Option<&str>| Example {
            picture: Picture::At(item.to_owned()),
            caption: "a boat".to_owned(),
            question: question.map(str::to_owned),
        };
        let examples = [example("file:///a.png", None), example("b.png", Some("What is it?"))];
        assert_eq!(read_examples(write_examples(&examples).unwrap()).unwrap(), examples);
    }

    #[test]
    fn tables_of_other_programs_are_read_and_failed_rows_left_out() {
        let schema = schema_of([
            Arc::new(Field::new("picture", DataType::Binary, true)),
            Arc::new(Field::new("caption", DataType::LargeUtf8, true)),
            Arc::new(Field::new("status", DataType::Utf8, true)),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(BinaryArray::from(vec![Some(&b"one"[..]), Some(b"two"), Some(b"three")])),
            Arc::new(LargeStringArray::from(vec![Some("a boat"), None, Some("a car")])),
            Arc::new(StringArray::from(vec!["ok", "ok", "failed"])),
        ];
        let bytes = table::write(&RecordBatch::try_new(schema, columns).unwrap(), &FORMAT).unwrap();
        let read = read_examples(bytes).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].picture, Picture::Bytes(Bytes::from_static(b"one")));
    }

    #[test]
    fn a_table_without_captions_is_refused_by_the_columns_name() {
        let schema = schema_of([Arc::new(Field::new("item", DataType::Utf8, true))]);
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["a.png"]))];
        let bytes = table::write(&RecordBatch::try_new(schema, columns).unwrap(), &FORMAT).unwrap();
        assert!(read_examples(bytes).unwrap_err().to_string().contains("caption"));
    }
}
