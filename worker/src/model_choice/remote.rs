//! Bundles in a bucket: fetched once, kept by content.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use captionfleet_model::bundle::{Bundle, MANIFEST};
use captionfleet_proto::chain;
use captionfleet_proto::storage::{ObjectMeta, Storage, StorageError, Stores};
use futures::FutureExt as _;
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::cache::{self, DamagedCopy};

/// Far above any bundle; there only to stop a wrong key from filling the disk.
const MOST_BYTES: u64 = 64 << 30;
/// Files that are fetched at a time, each of them in pieces.
const FILES_AT_ONCE: usize = 4;
/// A manifest is a few kilobytes.
const MOST_MANIFEST_BYTES: u64 = 1 << 20;

/// Fetches `s3://bucket/key`, a tar file or a folder, unless the same content is here already. What is replaced while it is copied, or
/// damaged on the way, is copied once more.
pub(super) async fn fetch(stores: &Stores, bucket: &str, key: &str) -> anyhow::Result<PathBuf> {
    let named = || format!("fetch the model s3://{bucket}/{key}");
    let store = stores.bucket(bucket).await.with_context(named)?;
    let remote = Remote { store: &*store, bucket, key, cache: &cache::bundles()? };
    remote.fetch().await.with_context(named)
}

/// A bundle in a bucket.
struct Remote<'a> {
    store: &'a dyn Storage,
    bucket: &'a str,
    key: &'a str,
    /// Where copies are kept.
    cache: &'a Path,
}

impl Remote<'_> {
    async fn fetch(&self) -> anyhow::Result<PathBuf> {
        match self.fetch_once().await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(
                    error.chain = %chain(error.as_ref()),
                    "a copy of the model failed: it is made once more"
                );
                self.fetch_once().await
            }
            fetched => fetched,
        }
    }

    async fn fetch_once(&self) -> anyhow::Result<PathBuf> {
        if Path::new(self.key).extension().is_some_and(|extension| extension == "tar") {
            self.tar().await
        } else {
            self.folder().await
        }
    }

    async fn tar(&self) -> anyhow::Result<PathBuf> {
        let Self { store, bucket, key, cache } = *self;
        let meta = store.head(key).await?;
        let identity =
            format!("{bucket}\n{key}\n{}\n{}", meta.size, meta.etag.as_deref().unwrap_or_default());
        let path = cache.join(format!("{}.tar", &hex::encode(Sha256::digest(identity))[..32]));
        if !path.exists() {
            copy(store, &meta, &path, None).await?;
        }
        Ok(path)
    }

    async fn file(&self, key: String, path: PathBuf, digest: String) -> anyhow::Result<()> {
        copy(self.store, &self.store.head(&key).await?, &path, Some(&digest)).await
    }

    async fn folder(&self) -> anyhow::Result<PathBuf> {
        let Self { store, bucket, key, cache } = *self;
        let object = |file: &str| format!("{}/{file}", key.trim_end_matches('/'));
        let manifest_bytes = store.get(&object(MANIFEST), MOST_MANIFEST_BYTES).await?.bytes;
        let manifest = Bundle::read_manifest(&manifest_bytes, &format!("s3://{bucket}/{key}"))?;
        let folder = cache.join(&manifest.digest);
        let mut missing = Vec::new();
        for (file, digest) in &manifest.files {
            // Names come from outside: one that leads elsewhere is not written.
            anyhow::ensure!(
                Path::new(file).file_name().is_some_and(|name| name == file.as_str()),
                "the bundle s3://{bucket}/{key} lists a file named `{file}`, which is not a plain name"
            );
            let path = folder.join(file);
            if !path.exists() {
                missing.push((object(file), path, digest.clone()));
            }
        }
        // Boxed: the compiler cannot see otherwise that they may go from thread to thread.
        let copies = missing.into_iter().map(|(key, path, digest)| self.file(key, path, digest).boxed());
        stream::iter(copies).buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        cache::write_whole(&folder.join(MANIFEST), &manifest_bytes)?;
        Ok(folder)
    }
}

/// Whether a second copy may succeed: the store was away, the object was replaced meanwhile, or a byte was lost on the way.
fn may_pass(error: &anyhow::Error) -> bool {
    error.is::<DamagedCopy>() || error.downcast_ref().is_some_and(StorageError::is_transient)
}

async fn copy(
    store: &dyn Storage,
    object: &ObjectMeta,
    path: &Path,
    digest: Option<&str>,
) -> anyhow::Result<()> {
    let (key, size) = (&object.key, object.size);
    anyhow::ensure!(size <= MOST_BYTES, "{key} has {size} bytes, which is no bundle: name another object");
    let since = Instant::now();
    cache::copy_whole(store, object, path, digest).await?;
    tracing::info!(
        key,
        bytes = size,
        seconds = since.elapsed().as_secs_f64(),
        "a file of the model was fetched"
    );
    Ok(())
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
