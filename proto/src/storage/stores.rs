//! The door to all stores: clients are made once and shared.

use std::sync::Arc;

use super::{Object, Storage, StorageError, StorageErrorKind, StorageOptions};
use crate::uri::{ArchiveUri, ItemUri};

/// Opens archives and reads items; one S3 client for all, one handle per bucket. Cheap to share through an `Arc`.
#[derive(Debug)]
pub struct Stores {
    options: StorageOptions,
}

impl Stores {
    /// Takes the options; nothing is opened yet.
    pub fn new(options: StorageOptions) -> Self {
        Self { options }
    }

    /// The options given.
    pub fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// Opens an archive. Its folder or prefix need not exist; use [`Storage::check`] to see whether it can be used.
    pub async fn archive(&self, archive: &ArchiveUri) -> Result<Arc<dyn Storage>, StorageError> {
        Err(StorageError::new(StorageErrorKind::Other, "opening", archive.as_str(), "not built yet"))
    }

    /// Opens a bucket as a whole.
    pub async fn bucket(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        Err(StorageError::new(StorageErrorKind::Other, "opening", name, "not built yet"))
    }

    /// Reads a picture of at most `max_bytes` from wherever it is, within [`StorageOptions::local_roots`].
    pub async fn read_item(&self, item: &ItemUri, max_bytes: u64) -> Result<Object, StorageError> {
        let _ = max_bytes;
        Err(StorageError::new(StorageErrorKind::Other, "reading", item.as_str(), "not built yet"))
    }
}
