//! Files that were replaced.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// For each picture or film, by what it is called, the bytes that were captioned last. Rows of what it held before do not stand
/// beside them: a film that became shorter would be found at times that it no longer has.
///
/// Rows of the same bytes never hide each other, whichever run they are of; those of a run that is half way hide what they replace
/// from the first on, because what was replaced can no longer be shown. Bytes are told apart by [`crate::content_key`]; of those
/// that are not known, 0, nothing is said.
#[derive(Debug)]
pub struct Contents<K, T> {
    latest: HashMap<K, (T, u64)>,
    any_replaced: bool,
}

impl<K, T> Default for Contents<K, T> {
    fn default() -> Self {
        Self { latest: HashMap::new(), any_replaced: false }
    }
}

impl<K: Eq + Hash, T: Ord + Copy> Contents<K, T> {
    /// Sees a captioned row of a source: when it was made, and of which bytes.
    pub fn see(&mut self, source: K, finished: T, content: u64) {
        if content == 0 {
            return;
        }
        let seen = (finished, content);
        let latest = self.latest.entry(source).or_insert(seen);
        self.any_replaced |= latest.1 != content;
        if finished > latest.0 {
            *latest = seen;
        }
    }

    /// Sees what another one has seen.
    pub fn merge(&mut self, other: Self) {
        self.any_replaced |= other.any_replaced;
        for (source, (finished, content)) in other.latest {
            self.see(source, finished, content);
        }
    }

    /// Whether a row is of bytes that others have replaced; ask when all rows were seen.
    pub fn are_replaced<Q: Eq + Hash + ?Sized>(&self, source: &Q, finished: T, content: u64) -> bool
    where
        K: Borrow<Q>,
    {
        if !self.any_replaced || content == 0 {
            return false;
        }
        let latest = self.latest.get(source);
        latest.is_some_and(|(later, other)| *other != content && finished < *later)
    }
}
