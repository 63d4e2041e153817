//! Vision output of recent pictures, so that a second prompt on the same one costs no vision pass.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use captionfleet_model::Adapter;
use captionfleet_model::preprocess::PreparedPicture;
use half::f16;
use sha2::{Digest, Sha256};

/// A picture after the vision step.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// `(queries, hidden)`, for the prompt.
    pub(super) image_tokens: Tensor,
    /// The search embedding, vector after vector, if it was asked for.
    pub(super) embedding: Option<Vec<f16>>,
}

/// The pixels that the network sees, hashed.
pub(super) type PictureKey = [u8; 32];

/// The key of a picture as an adapter sees it: most see it as the model does.
pub(super) fn key_of(picture: &PreparedPicture, adapter: Option<&Adapter>) -> PictureKey {
    let mut hash = Sha256::new();
    hash.update(&picture.caption.rgb);
    if let Some(retrieval) = &picture.retrieval {
        hash.update(&retrieval.rgb);
    }
    if let Some(adapter) = adapter.filter(|adapter| adapter.changes_image_tokens()) {
        hash.update(adapter.digest());
    }
    hash.finalize().into()
}

/// The most recently used pictures, up to a fixed number.
#[derive(Debug)]
pub(super) struct FeatureCache {
    capacity: usize,
    clock: u64,
    entries: HashMap<PictureKey, (u64, Seen)>,
    by_age: BTreeMap<u64, PictureKey>,
}

impl FeatureCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, entries: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// What is known of the picture, if that includes an embedding where one is wanted.
    pub(super) fn get(&mut self, key: &PictureKey, embed: bool) -> Option<Seen> {
        let (age, seen) = self.entries.get_mut(key)?;
        if embed && seen.embedding.is_none() {
            return None;
        }
        self.clock += 1;
        self.by_age.remove(age);
        *age = self.clock;
        self.by_age.insert(self.clock, *key);
        Some(seen.clone())
    }

    pub(super) fn insert(&mut self, key: PictureKey, seen: Seen) {
        if self.capacity == 0 {
            return;
        }
        self.clock += 1;
        if let Some((age, _)) = self.entries.insert(key, (self.clock, seen)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.clock, key);
        while self.entries.len() > self.capacity {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn seen(embedded: bool) -> Seen {
        Seen {
            image_tokens: Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap(),
            embedding: embedded.then(Vec::new),
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = FeatureCache::new(2);
        cache.insert([1; 32], seen(false));
        cache.insert([2; 32], seen(false));
        assert!(cache.get(&[1; 32], false).is_some());
        cache.insert([3; 32], seen(false));
        assert!(cache.get(&[2; 32], false).is_none());
        assert!(cache.get(&[1; 32], false).is_some() && cache.get(&[3; 32], false).is_some());
    }

    #[test]
    fn an_entry_without_embedding_does_not_serve_a_request_for_one() {
        let mut cache = FeatureCache::new(2);
        cache.insert([1; 32], seen(false));
        assert!(cache.get(&[1; 32], true).is_none());
        cache.insert([1; 32], seen(true));
        assert!(cache.get(&[1; 32], true).is_some());
    }
}
