//! Small pictures that were made, within a budget of bytes: what was made first goes first.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Most bytes.
const BUDGET: usize = 96 << 20;

/// The pictures.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_tag: HashMap<String, Bytes>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Shelf {
    pub(super) fn get(&self, tag: &str) -> Option<Bytes> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).by_tag.get(tag).cloned()
    }

    pub(super) fn put(&self, tag: &str, bytes: &Bytes) {
        self.put_within(tag, bytes, BUDGET);
    }

    fn put_within(&self, tag: &str, bytes: &Bytes, budget: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.by_tag.contains_key(tag) {
            return;
        }
        kept.bytes += bytes.len();
        kept.by_tag.insert(tag.to_owned(), bytes.clone());
        kept.order.push_back(tag.to_owned());
        while kept.bytes > budget {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes -= kept.by_tag.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shelf;
    use bytes::Bytes;

    #[test]
    fn the_budget_is_kept() {
        let (shelf, four) = (Shelf::default(), Bytes::from_static(b"four"));
        for tag in ["a", "b", "b", "c"] {
            shelf.put_within(tag, &four, 9);
        }
        assert_eq!(["a", "b", "c"].map(|tag| shelf.get(tag).is_some()), [false, true, true]);
    }
}
