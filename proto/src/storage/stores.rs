//! The door to all stores: clients are made once and shared.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

    /// Opens an archive, a folder only within [`StorageOptions::local_roots`]. Its folder or prefix need not exist;
    /// [`Storage::check`] tells whether it can be used.
    pub async fn archive(&self, archive: &ArchiveUri) -> Result<Arc<dyn Storage>, StorageError> {
        match archive.location() {
            Location::File(folder) => {
                let (roots, place) = (self.options.local_roots.clone(), folder.clone());
                let allowed = tokio::task::spawn_blocking(move || local::allow_archive(&place, &roots)).await;
                allowed.unwrap_or_else(|error| Err(interrupted("opening", archive.as_str(), error)))?;
                Ok(Arc::new(LocalStorage::new(folder)))
            }
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
                read.unwrap_or_else(|error| Err(interrupted("reading", item.as_str(), error)))
            }
        }
    }

    /// The path of a local item, within [`StorageOptions::local_roots`]; `None` for an object of a bucket.
    pub async fn local_path(&self, item: &ItemUri) -> Result<Option<PathBuf>, StorageError> {
        let Location::File(path) = item.location() else { return Ok(None) };
        let roots = self.options.local_roots.clone();
        let found = tokio::task::spawn_blocking(move || local::item_path(&path, &roots)).await;
        found.unwrap_or_else(|error| Err(interrupted("reading", item.as_str(), error))).map(Some)
    }

    /// Whether the place of an item answers at all, be it with a refusal, within `limit`.
    pub async fn answers(&self, item: &ItemUri, limit: Duration) -> bool {
        let answered = async {
            match item.location() {
                Location::S3 { bucket, .. } => match self.shared_bucket(&bucket).await {
                    Ok(bucket) => bucket.check().await.map_or_else(|error| !error.is_transient(), |()| true),
                    Err(error) => !error.is_transient(),
                },
                // Whatever is there: a network's file system that hangs tells nothing.
                Location::File(path) => {
                    tokio::task::spawn_blocking(move || local::answers(&path)).await.unwrap_or(false)
                }
            }
        };
        tokio::time::timeout(limit, answered).await.unwrap_or(false)
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

fn interrupted(operation: &'static str, object: &str, error: tokio::task::JoinError) -> StorageError {
    StorageError::new(StorageErrorKind::Other, operation, object, "the call did not end").caused_by(error)
}
