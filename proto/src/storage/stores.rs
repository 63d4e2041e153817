//! The door to all stores: clients are made once and shared.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::local::{self, LocalStorage};
use super::s3::{Connection, S3Storage, connect};
use super::{Object, Storage, StorageError, StorageErrorKind, StorageOptions};
use crate::uri::{ArchiveUri, ItemUri, Location};

/// Opens archives and reads items: one S3 client for all, one handle per bucket. Shared through an `Arc`.
#[derive(Debug)]
pub struct Stores {
    options: StorageOptions,
    connection: OnceCell<Connection>,
    buckets: Mutex<HashMap<String, Arc<S3Storage>>>,
}

impl Stores {
    /// Takes the options; nothing is opened yet.
    pub fn new(options: StorageOptions) -> Self {
        Self { options, connection: OnceCell::new(), buckets: Mutex::default() }
    }

    /// The options given.
    pub fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// Opens an archive. Its folder or prefix need not exist; [`Storage::check`] tells whether it can be used.
    pub async fn archive(&self, archive: &ArchiveUri) -> Result<Arc<dyn Storage>, StorageError> {
        match archive.location() {
            Location::File(folder) => Ok(Arc::new(LocalStorage::new(folder))),
            Location::S3 { bucket, key } => {
                let connection = self.connection().await?;
                Ok(Arc::new(S3Storage::new(connection.clone(), &bucket, &key)))
            }
        }
    }

    /// Opens a bucket as a whole.
    pub async fn bucket(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(self.shared_bucket(name).await?)
    }

    /// Reads a picture of at most `max_bytes` from wherever it is, within [`StorageOptions::local_roots`].
    pub async fn read_item(&self, item: &ItemUri, max_bytes: u64) -> Result<Object, StorageError> {
        match item.location() {
            Location::S3 { bucket, key } => self.shared_bucket(&bucket).await?.get(&key, max_bytes).await,
            Location::File(path) => {
                let roots = self.options.local_roots.clone();
                let read =
                    tokio::task::spawn_blocking(move || local::read_item(&path, max_bytes, &roots)).await;
                read.unwrap_or_else(|error| Err(interrupted(item, error)))
            }
        }
    }

    /// The path of a local item, within [`StorageOptions::local_roots`]; `None` for an object of a bucket.
    pub async fn local_path(&self, item: &ItemUri) -> Result<Option<PathBuf>, StorageError> {
        let Location::File(path) = item.location() else { return Ok(None) };
        let roots = self.options.local_roots.clone();
        let found = tokio::task::spawn_blocking(move || local::item_path(&path, &roots)).await;
        found.unwrap_or_else(|error| Err(interrupted(item, error))).map(Some)
    }

    async fn connection(&self) -> Result<&Connection, StorageError> {
        self.connection.get_or_try_init(|| connect(&self.options)).await
    }

    async fn shared_bucket(&self, name: &str) -> Result<Arc<S3Storage>, StorageError> {
        let connection = self.connection().await?;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(S3Storage::new(connection.clone(), name, ""));
        Ok(Arc::clone(buckets.entry(name.to_owned()).or_insert_with(open)))
    }
}

fn interrupted(item: &ItemUri, error: tokio::task::JoinError) -> StorageError {
    StorageError::new(StorageErrorKind::Other, "reading", item.as_str(), "the call did not end")
        .caused_by(error)
}
