//! Why an item has no caption.

use std::time::Duration;

use super::Failure;
use crate::engine::CaptionRequest;

/// Why an item has no caption.
#[derive(Debug)]
pub(super) enum ItemFailure {
    /// It gets a failed row.
    Row { code: &'static str, message: String },
    /// The job as a whole cannot go on.
    Job(Failure),
    /// The engine failed on a batch that this item was part of; alone it may pass.
    Unclear(Box<CaptionRequest>),
}

impl ItemFailure {
    pub(super) fn row(code: &'static str, message: String) -> Self {
        Self::Row { code, message }
    }

    pub(super) fn deadline(limit: Duration, stage: &str) -> Self {
        Self::row("deadline", format!("{stage} did not end within {} s", limit.as_secs_f64()))
    }
}
