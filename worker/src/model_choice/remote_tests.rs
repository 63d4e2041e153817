//! Objects that change while they are copied.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use captionfleet_proto::storage::{LocalStorage, Object, PutMode, PutOutcome};
use futures::stream::BoxStream;

use super::*;

/// A store in which the object that is read is replaced just before, so many times.
#[derive(Debug)]
struct Replaced {
    objects: LocalStorage,
    left: AtomicU32,
}

impl Replaced {
    fn new(folder: &Path, times: u32) -> Self {
        Self { objects: LocalStorage::new(folder.to_owned()), left: AtomicU32::new(times) }
    }

    async fn replace(&self, version: u32) {
        let bytes = "longer each time ".repeat(version as usize + 1);
        self.objects.put("model.tar", bytes.into(), PutMode::Overwrite).await.unwrap();
    }
}

#[async_trait]
impl Storage for Replaced {
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.objects.get(key, max_bytes).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Object, StorageError> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            self.replace(10 - left).await;
        }
        self.objects.get_range(key, offset, length).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.objects.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError> {
        self.objects.put(key, bytes, mode).await
    }

    async fn put_file(&self, key: &str, source: &Path) -> Result<(), StorageError> {
        self.objects.put_file(key, source).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.objects.delete(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
        self.objects.list(prefix)
    }

    async fn check(&self) -> Result<(), StorageError> {
        self.objects.check().await
    }

    fn location(&self) -> String {
        self.objects.location()
    }
}

#[tokio::test]
async fn what_is_replaced_while_it_is_copied_is_copied_once_more() {
    for (times, is_fetched) in [(0, true), (1, true), (2, false)] {
        let (objects, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Replaced::new(objects.path(), times);
        store.replace(0).await;
        let remote = Remote { store: &store, bucket: "models", key: "model.tar", cache: cache.path() };
        let fetched = remote.fetch().await;
        assert_eq!(fetched.is_ok(), is_fetched, "{fetched:?}");
        let kept = cache.path().read_dir().unwrap().count();
        assert_eq!(kept, usize::from(is_fetched), "nothing that is half of each is kept");
        if let Ok(path) = fetched {
            assert_eq!(
                std::fs::read(path).unwrap(),
                std::fs::read(objects.path().join("model.tar")).unwrap()
            );
        }
    }
}
