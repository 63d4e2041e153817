//! Where the embeddings of parts lie, looked up once.

use crate::archive::ArchiveError;
use captionfleet_index::PartStamp;
use captionfleet_proto::rows::{EmbeddingPlaces, PartTail};
use captionfleet_proto::storage::{Object, Storage, StorageErrorKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts that are remembered: five million pictures, some ten megabytes.
const REMEMBERED: usize = 80_000;
/// The end of a part that says where its embeddings lie.
const TAIL_BYTES: u64 = 32 << 10;

/// What parts' ends said; `None` of parts that are to be read whole.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<PartStamp, Option<Arc<EmbeddingPlaces>>>>);

impl Places {
    /// Where the embeddings of `part` lie, if its rows can be read one by one. A part that was replaced or is gone has none.
    pub(super) async fn of(
        &self,
        archive: &dyn Storage,
        part: &PartStamp,
    ) -> Result<Option<Arc<EmbeddingPlaces>>, ArchiveError> {
        let known = self.known().get(part).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let mut length = TAIL_BYTES.min(part.size);
        let mut found = None;
        while (1..=part.size).contains(&length) {
            let tail = match archive.get_range(&part.key, part.size - length, length).await {
                Ok(object) if is_same(part, &object) => object.bytes,
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            match EmbeddingPlaces::read(&tail, part.size) {
                Ok(PartTail::Short(needed)) if needed > length => length = needed,
                Ok(PartTail::Places(places)) => {
                    found = Some(Arc::new(places));
                    break;
                }
                // Whoever reads it whole says what is wrong with it.
                Ok(PartTail::Short(_) | PartTail::Otherwise) | Err(_) => break,
            }
        }
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(part.clone(), found.clone());
        Ok(found)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PartStamp, Option<Arc<EmbeddingPlaces>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what was read is of the object that was listed, as far as the storage tells.
pub(super) fn is_same(part: &PartStamp, object: &Object) -> bool {
    part.etag.as_ref().zip(object.etag.as_ref()).is_none_or(|(one, other)| one == other)
}
