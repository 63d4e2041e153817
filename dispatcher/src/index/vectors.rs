//! Embeddings that were read last: of a small archive soon all of them.

use captionfleet_index::PartStamp;
use half::f16;
use lru::LruCache;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of values that are kept: those of 16,000 pictures of the published model.
const MOST_BYTES: usize = 256 << 20;

/// Embeddings by their part and their number among its embeddings.
#[derive(Debug)]
pub(super) struct Vectors(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    embeddings: LruCache<(Arc<PartStamp>, u64), Arc<[f16]>>,
    bytes: usize,
}

impl Default for Vectors {
    fn default() -> Self {
        Self(Mutex::new(Kept { embeddings: LruCache::unbounded(), bytes: 0 }))
    }
}

impl Vectors {
    pub(super) fn get(&self, part: &Arc<PartStamp>, number: u64) -> Option<Arc<[f16]>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.embeddings.get(&(part.clone(), number)).cloned()
    }

    pub(super) fn keep(&self, part: &Arc<PartStamp>, number: u64, embedding: Arc<[f16]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size_of_val(&*embedding);
        if let Some(before) = kept.embeddings.put((part.clone(), number), embedding) {
            kept.bytes -= size_of_val(&*before);
        }
        while kept.bytes > MOST_BYTES
            && let Some((_, oldest)) = kept.embeddings.pop_lru()
        {
            kept.bytes -= size_of_val(&*oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_kept() {
        let vectors = Vectors::default();
        let part = |key: &str| Arc::new(PartStamp { key: key.to_owned(), size: 1, etag: None });
        let embedding: Arc<[f16]> = vec![f16::ONE; MOST_BYTES / 8].into();
        for number in 0..4 {
            vectors.keep(&part("a"), number, embedding.clone());
        }
        assert!(vectors.get(&part("a"), 0).is_some(), "as much as there is room for");
        vectors.keep(&part("b"), 0, embedding.clone());
        assert!(vectors.get(&part("a"), 1).is_none() && vectors.get(&part("a"), 0).is_some());
        vectors.keep(&part("b"), 0, embedding);
        assert!(vectors.get(&part("a"), 2).is_some(), "the same again takes no more room");
        assert!(vectors.get(&part("b"), 1).is_none());
    }
}
