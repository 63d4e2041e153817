//! A step of the device whose panic ends nothing but itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{EngineError, Stage};
use crate::panics;

/// Runs a step; a panic in it becomes an error. Whoever goes on rewinds the cache to what it held before.
pub(super) fn contained<T>(
    stage: Stage,
    step: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let message = panics::message(panic.as_ref());
        Err(EngineError::Panicked { step: stage.as_str(), message })
    })
}
