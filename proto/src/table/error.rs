//! Why a table cannot be written or read.

use std::error::Error;

/// Why rows cannot be written, or an object is not the table it should be.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A row breaks a rule of the schema.
    #[error("row {row} ({item}): {problem}")]
    Row {
        /// Its place among the rows given.
        row: usize,
        /// Its item.
        item: String,
        /// The rule.
        problem: String,
    },
    /// The shape has no values, or too many.
    #[error("an embedding of {vectors} x {dim} values cannot be stored")]
    Shape {
        /// Number of vectors.
        vectors: u32,
        /// Length of each.
        dim: u32,
    },
    /// A column is missing or has another type.
    #[error("column `{column}`: {problem}")]
    Column {
        /// The column's name.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A value that the column must not have.
    #[error("column `{column}`, row {row}: {problem}")]
    Value {
        /// The column's name.
        column: &'static str,
        /// The row's number in the object.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Written by a program that speaks another major version.
    #[error("the table has version {0}, this program reads version 1: use a newer captionfleet")]
    UnknownVersion(String),
    /// The bytes are not a Parquet file, or a damaged one.
    #[error("not a readable Parquet object")]
    Parquet(#[source] Box<dyn Error + Send + Sync>),
}

impl TableError {
    pub(crate) fn parquet(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Parquet(error.into())
    }

    pub(crate) fn damaged(problem: &str) -> Self {
        Self::Parquet(problem.into())
    }
}
