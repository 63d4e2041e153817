//! Typed access to the cells of one record batch.

use std::fmt::Display;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_array::{FixedSizeListArray, TimestampMicrosecondArray};
use arrow_schema::DataType;
use jiff::Timestamp;

use super::TableError;

/// One record batch, with the number of rows before it for error messages.
pub(crate) struct Cells<'a> {
    pub(crate) batch: &'a RecordBatch,
    pub(crate) before: usize,
}

impl<'a> Cells<'a> {
    /// A column of strings; absent columns read as nulls.
    pub(crate) fn text(&self, column: &'static str) -> Result<TextColumn<'a>, TableError> {
        let values = self.column(column, |array| array.as_string_opt::<i32>())?;
        Ok(TextColumn { column, values, before: self.before })
    }

    /// A column of 32- or 64-bit integers that are never negative; absent columns read as nulls.
    pub(crate) fn number(&self, column: &'static str) -> Result<NumberColumn<'a>, TableError> {
        let values = self.column(column, |array| match array.data_type() {
            DataType::Int32 => array.as_primitive_opt::<Int32Type>().map(Integers::Narrow),
            _ => array.as_primitive_opt::<Int64Type>().map(Integers::Wide),
        })?;
        Ok(NumberColumn { column, values, before: self.before })
    }

    /// A column of instants.
    pub(crate) fn time(&self, column: &'static str) -> Result<TimeColumn<'a>, TableError> {
        let values = self.column(column, |array| array.as_primitive_opt::<TimestampMicrosecondType>())?;
        Ok(TimeColumn { column, values, before: self.before })
    }

    /// A column of 32-bit floats, if there is one.
    pub(crate) fn floats(&self, column: &'static str) -> Result<Option<&'a Float32Array>, TableError> {
        self.column(column, |array| array.as_primitive_opt::<Float32Type>())
    }

    /// A column of lists of one length, if there is one.
    pub(crate) fn lists(&self, column: &'static str) -> Result<Option<&'a FixedSizeListArray>, TableError> {
        self.column(column, |array| array.as_fixed_size_list_opt())
    }

    fn column<T>(
        &self,
        column: &'static str,
        read: impl FnOnce(&'a ArrayRef) -> Option<T>,
    ) -> Result<Option<T>, TableError> {
        let Some(array) = self.batch.column_by_name(column) else {
            return Ok(None);
        };
        let wrong = || TableError::Column { column, problem: format!("has the type {}", array.data_type()) };
        read(array).map(Some).ok_or_else(wrong)
    }
}

/// Strings.
pub(crate) struct TextColumn<'a> {
    column: &'static str,
    values: Option<&'a StringArray>,
    before: usize,
}

impl<'a> TextColumn<'a> {
    pub(crate) fn get(&self, row: usize) -> Option<&'a str> {
        self.values.filter(|values| values.is_valid(row)).map(|values| values.value(row))
    }

    pub(crate) fn owned(&self, row: usize) -> Option<String> {
        self.get(row).map(str::to_owned)
    }

    pub(crate) fn required(&self, row: usize) -> Result<&'a str, TableError> {
        self.get(row).ok_or_else(|| self.wrong(row, "is null"))
    }

    /// The value as something that checks it.
    pub(crate) fn parsed<T: TryFrom<String, Error: Display>>(&self, row: usize) -> Result<T, TableError> {
        T::try_from(self.required(row)?.to_owned()).map_err(|error| self.wrong(row, error))
    }

    pub(crate) fn wrong(&self, row: usize, problem: impl Display) -> TableError {
        TableError::Value { column: self.column, row: self.before + row, problem: problem.to_string() }
    }
}

enum Integers<'a> {
    Narrow(&'a Int32Array),
    Wide(&'a Int64Array),
}

/// Integers that are never negative.
pub(crate) struct NumberColumn<'a> {
    column: &'static str,
    values: Option<Integers<'a>>,
    before: usize,
}

impl NumberColumn<'_> {
    pub(crate) fn get<T: TryFrom<i64>>(&self, row: usize) -> Result<Option<T>, TableError> {
        let value = match self.values {
            Some(Integers::Narrow(values)) if values.is_valid(row) => i64::from(values.value(row)),
            Some(Integers::Wide(values)) if values.is_valid(row) => values.value(row),
            _ => return Ok(None),
        };
        T::try_from(value).map(Some).map_err(|_| self.wrong(row, format!("has the value {value}")))
    }

    pub(crate) fn required<T: TryFrom<i64>>(&self, row: usize) -> Result<T, TableError> {
        self.get(row)?.ok_or_else(|| self.wrong(row, "is null".to_owned()))
    }

    fn wrong(&self, row: usize, problem: String) -> TableError {
        TableError::Value { column: self.column, row: self.before + row, problem }
    }
}

/// Instants.
pub(crate) struct TimeColumn<'a> {
    column: &'static str,
    values: Option<&'a TimestampMicrosecondArray>,
    before: usize,
}

impl TimeColumn<'_> {
    pub(crate) fn get(&self, row: usize) -> Result<Option<Timestamp>, TableError> {
        let Some(values) = self.values.filter(|values| values.is_valid(row)) else { return Ok(None) };
        let read = Timestamp::from_microsecond(values.value(row));
        read.map(Some).map_err(|error| self.wrong(row, error.to_string()))
    }

    pub(crate) fn required(&self, row: usize) -> Result<Timestamp, TableError> {
        self.get(row)?.ok_or_else(|| self.wrong(row, "is null".to_owned()))
    }

    fn wrong(&self, row: usize, problem: String) -> TableError {
        TableError::Value { column: self.column, row: self.before + row, problem }
    }
}
