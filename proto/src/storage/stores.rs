//! The door to all stores: clients are made once and shared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::local::{self, LocalStorage, Places};
use super::s3::{Connection, S3Storage, connect};
use super::{Object, Storage, StorageError, StorageErrorKind, StorageOptions};
use crate::uri::{ArchiveUri, ItemUri, Location};

/// Opens archives and reads items: one S3 client for all, one handle per bucket. Shared through an `Arc`.
#[derive(Debug)]
pub struct Stores {
    options: StorageOptions,
    connection: OnceCell<Connection>,
    buckets: Mutex<HashMap<String, Arc<S3Storage>>>,
    places: Places,
}

impl Stores {
    /// Takes the options; nothing is opened yet.
    pub fn new(options: StorageOptions) -> Self {
        Self { options, connection: OnceCell::new(), buckets: Mutex::default(), places: Places::default() }
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
                let read = move |path: &Path| local::read_item(path, max_bytes, &roots);
                self.local("reading", (item, path), read).await
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

    /// Whether the place of an item answers within `limit`, be it with a refusal: not everybody may list. To refuse the
    /// credentials is no answer.
    pub async fn answers(&self, item: &ItemUri, limit: Duration) -> bool {
        let answered = async {
            match item.location() {
                Location::S3 { bucket, .. } => match self.shared_bucket(&bucket).await {
                    Ok(bucket) => bucket.check().await.map_or_else(|error| !error.is_outage(), |()| true),
                    Err(error) => !error.is_outage(),
                },
                // Whatever is there: a network's file system that hangs tells nothing.
                Location::File(path) => {
                    let ask = |path: &Path| Ok(local::answers(path));
                    self.local("looking at", (item, path), ask).await.unwrap_or(false)
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

    /// Runs a call of the file system of `path` that is given up after a time. Its place is free when it has ended, not before.
    async fn local<T: Send + 'static>(
        &self,
        operation: &'static str,
        (item, path): (&ItemUri, PathBuf),
        call: impl FnOnce(&Path) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let place = self.places.place(&path).await;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            call(&path)
        });
        done.await.unwrap_or_else(|error| Err(interrupted(operation, item.as_str(), error)))
    }
}

fn interrupted(operation: &'static str, object: &str, error: tokio::task::JoinError) -> StorageError {
    StorageError::new(StorageErrorKind::Other, operation, object, "the call did not end").caused_by(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;
    use crate::storage::local::PLACES;

    #[tokio::test]
    async fn file_systems_that_hang_keep_few_threads_and_hold_up_no_other() {
        let stores = Stores::new(StorageOptions::default());
        let file = tempfile::NamedTempFile::new().unwrap();
        let item = ItemUri::from_path(file.path()).unwrap();
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let hang = || {
            let hanging = Arc::clone(&hanging);
            move |_: &Path| {
                let released = hanging.lock().unwrap_or_else(PoisonError::into_inner).recv();
                assert!(released.is_err(), "the test lets go by hanging up");
                Ok(())
            }
        };
        for _ in 0..3 * PLACES {
            let read = stores.local("reading", (&item, file.path().to_owned()), hang());
            assert!(timeout(Duration::ZERO, read).await.is_err());
        }
        assert!(!stores.answers(&item, Duration::from_millis(10)).await, "they hang, although nobody waits");
        let elsewhere = ItemUri::from_path(Path::new("/proc/version")).unwrap();
        assert!(stores.answers(&elsewhere, Duration::from_secs(60)).await, "another one is held up");
        drop(release);
        assert!(stores.read_item(&item, 1).await.unwrap().bytes.is_empty());
    }
}
