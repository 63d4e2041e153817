//! The items table of a run: which items were planned, and into which jobs.

use bytes::Bytes;

use crate::job::{JobId, JobItem};
use crate::rows::TableError;

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

/// Writes one file of the items table. Columns: item, fetch, etag, size, sha256, frame_ms, span_ms, job, ordinal.
pub fn write_items(items: &[PlannedItem]) -> Result<Bytes, TableError> {
    let _ = items;
    Err(TableError::UnknownVersion(String::new()))
}

/// Reads one file of the items table.
pub fn read_items(bytes: Bytes) -> Result<Vec<PlannedItem>, TableError> {
    let _ = bytes;
    Err(TableError::UnknownVersion(String::new()))
}
