//! Files that were replaced.

use crate::segment::{Record, Status};
use std::collections::HashMap;

/// For each picture or film the bytes that were captioned last. Rows of what it held before do not stand beside them: a film that
/// became shorter would be found at times that it no longer has.
///
/// Rows of the same bytes never hide each other, whichever run they are of; those of a run that is half way hide what they replace
/// from the first on, because what was replaced can no longer be shown.
#[derive(Debug, Default)]
pub(super) struct Contents {
    latest: HashMap<u64, (i64, u64)>,
    any_replaced: bool,
}

impl Contents {
    /// Sees a row of a part that is there.
    pub(super) fn see(&mut self, record: &Record) {
        if record.status != Status::Ok || record.content == 0 {
            return;
        }
        let seen = (record.finished, record.content);
        let latest = self.latest.entry(record.source()).or_insert(seen);
        self.any_replaced |= latest.1 != record.content;
        if record.finished > latest.0 {
            *latest = seen;
        }
    }

    /// Whether a row is of bytes that others have replaced; ask when all rows were seen.
    pub(super) fn are_replaced(&self, record: &Record) -> bool {
        if !self.any_replaced || record.content == 0 {
            return false;
        }
        let latest = self.latest.get(&record.source());
        latest.is_some_and(|(finished, content)| *content != record.content && record.finished < *finished)
    }
}
