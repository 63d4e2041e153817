//! A folder as a store, and local files as items.
//!
//! Writing leaves nothing behind, even when the process is killed: an object is written into a file without a
//! name where the file system offers that, and gets its name only when it is whole and on the disk.

mod fault;
mod key;
mod list;
mod places;
mod read;
mod write;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use super::{Object, ObjectMeta, PutMode, PutOutcome, Storage, StorageError, StorageErrorKind};
use crate::uri::ArchiveUri;

#[cfg(test)]
pub(super) use places::PLACES;
pub(super) use places::Places;
pub(super) use read::{allow_archive, answers, item_path, read_item};

/// What the names of unfinished files begin with; no key may have such a segment.
const UNFINISHED: &str = ".captionfleet-";

/// A folder as a store; made with the first object.
#[derive(Clone, Debug)]
pub struct LocalStorage {
    root: PathBuf,
}

impl LocalStorage {
    /// Takes an absolute folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Runs file system calls where they may block.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        call: impl FnOnce(&Path) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let path = key::path(&self.root, key, operation)?;
        let object = fault::uri(&path);
        let done = tokio::task::spawn_blocking(move || call(&path)).await;
        done.unwrap_or_else(|error| {
            Err(StorageError::new(StorageErrorKind::Other, operation, object, "the call did not end")
                .caused_by(error))
        })
    }
}

#[async_trait]
impl Storage for LocalStorage {
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.blocking("reading", key, move |path| read::read_file(path, max_bytes)).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Object, StorageError> {
        self.blocking("reading", key, move |path| read::read_range(path, offset, length)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let owned = key.to_owned();
        self.blocking("looking at", key, move |path| {
            Ok(describe(owned, &read::stat_file(path, "looking at")?))
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError> {
        self.blocking("writing", key, move |path| write::put(path, &bytes, mode)).await
    }

    async fn put_file(&self, key: &str, source: &Path) -> Result<(), StorageError> {
        let source = source.to_owned();
        self.blocking("writing", key, move |path| write::put_file(path, &source)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.blocking("deleting", key, write::delete).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
        let receiver = list::start(self.root.clone(), prefix.to_owned());
        stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed()
    }

    async fn check(&self) -> Result<(), StorageError> {
        let root = self.root.clone();
        let checked = tokio::task::spawn_blocking(move || check(&root, Path::symlink_metadata));
        checked.await.unwrap_or(Ok(()))
    }

    fn location(&self) -> String {
        ArchiveUri::from_folder(&self.root).map_or_else(|_| self.root.display().to_string(), String::from)
    }
}

/// Fails if no folder can be at `root`, or its file system is away. `look` tells what is at a path, a link as itself.
fn check(root: &Path, look: impl Fn(&Path) -> io::Result<Metadata>) -> Result<(), StorageError> {
    const OPENING: &str = "opening";
    for folder in root.ancestors() {
        let is_folder = match look(folder) {
            Ok(found) if found.is_symlink() => folder.is_dir(),
            Ok(found) => found.is_dir(),
            Err(error) => {
                let error = fault::new(OPENING, root, error);
                if error.is_transient() {
                    return Err(error);
                }
                continue;
            }
        };
        if is_folder {
            return Ok(());
        }
        let problem = format!("{} is not a folder: name another one", folder.display());
        return Err(StorageError::new(StorageErrorKind::InvalidUri, OPENING, fault::uri(root), problem));
    }
    Ok(())
}

/// The version of a local file: its size and the time of its last change, to the nanosecond.
pub fn etag_of_file(metadata: &Metadata) -> String {
    format!("{:x}-{:x}.{:09}", metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

fn describe(key: String, metadata: &Metadata) -> ObjectMeta {
    let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    ObjectMeta { key, size: metadata.len(), etag: Some(etag_of_file(metadata)), modified }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_file_system_that_is_away_is_no_folder_that_can_be_made() {
        let root = std::env::temp_dir().join("nothing");
        assert!(check(&root, Path::symlink_metadata).is_ok());
        let away =
            |path: &Path| if path == root { Err(Errno::STALE.into()) } else { path.symlink_metadata() };
        let error = check(&root, away).expect_err("it is away");
        assert_eq!(error.kind(), StorageErrorKind::Unavailable);
    }
}
