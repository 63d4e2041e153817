//! A store that stops in the middle, or rests there.

use async_trait::async_trait;
use bytes::Bytes;
use captionfleet_proto::storage::{
    Object, ObjectMeta, PutMode, PutOutcome, Storage, StorageError, StorageErrorKind,
};
use futures::stream::BoxStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

/// Changes so many objects, and from then on none.
#[derive(Debug)]
pub(crate) struct Faltering {
    inner: Arc<dyn Storage>,
    left: AtomicUsize,
    /// Told at the first change that never comes to an end, where changes do not fail.
    hangs: Option<CancellationToken>,
    rest: Option<Rest>,
}

/// Before a change below a prefix.
#[derive(Debug)]
struct Rest {
    below: &'static str,
    begun: CancellationToken,
    over: CancellationToken,
}

impl Faltering {
    pub(crate) fn after(changes: usize, inner: Arc<dyn Storage>) -> Self {
        Self { inner, left: AtomicUsize::new(changes), hangs: None, rest: None }
    }

    pub(crate) fn hanging(hangs: CancellationToken, inner: Arc<dyn Storage>) -> Self {
        Self { hangs: Some(hangs), ..Self::after(0, inner) }
    }

    /// Changes nothing `below` a prefix between `begun` and `over`.
    pub(crate) fn resting(
        below: &'static str,
        begun: CancellationToken,
        over: CancellationToken,
        inner: Arc<dyn Storage>,
    ) -> Self {
        Self { rest: Some(Rest { below, begun, over }), ..Self::after(usize::MAX, inner) }
    }

    async fn change(&self, key: &str) -> Result<(), StorageError> {
        if let Some(rest) = self.rest.as_ref().filter(|rest| key.starts_with(rest.below)) {
            rest.begun.cancel();
            rest.over.cancelled().await;
        }
        let less = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) if self.hangs.is_some() => {
                self.hangs.iter().for_each(CancellationToken::cancel);
                std::future::pending().await
            }
            Err(_) => Err(StorageError::new(StorageErrorKind::Unavailable, "changing", key, "it is away")),
        }
    }
}

#[async_trait]
impl Storage for Faltering {
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.inner.get(key, max_bytes).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Object, StorageError> {
        self.inner.get_range(key, offset, length).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError> {
        self.change(key).await?;
        self.inner.put(key, bytes, mode).await
    }

    async fn put_file(&self, key: &str, source: &Path) -> Result<(), StorageError> {
        self.change(key).await?;
        self.inner.put_file(key, source).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.change(key).await?;
        self.inner.delete(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
        self.inner.list(prefix)
    }

    async fn check(&self) -> Result<(), StorageError> {
        self.inner.check().await
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}
