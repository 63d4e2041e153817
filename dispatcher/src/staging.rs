//! Copying local pictures and videos into the archive, where workers on other machines can read them.
//!
//! A copy is named by its content: what is there already is not copied again, and an interrupted run leaves nothing
//! that would be wrong. The row keeps the picture's own name.

use crate::archive;
use crate::catalog::digest;
use crate::planned_job::PlannedJob;
use anyhow::Context as _;
use captionfleet_proto::job::JobItem;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, StorageError, StorageErrorKind, etag_of_file};
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that are read and sent at once.
const AT_ONCE: usize = 16;
/// Pictures above this size are not copied: no worker can be told to read them.
const MOST_BYTES: u64 = 4096 << 20;
/// Those above this size are copied as films are: so many at once would fill the memory.
const IN_MEMORY: u64 = 64 << 20;

/// How often a large file is read that changes while it is copied.
const TRIES: usize = 3;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Pictures that were sent.
    pub sent: u64,
    /// Pictures that were there already.
    pub present: u64,
}

/// Copies the local pictures and videos of `jobs` and tells each item where its copy is.
///
/// A file that has gone, has grown beyond the limit, or is a film that is still being written gets the address of a copy that
/// does not exist: its row will say `not_found`.
pub async fn stage(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    jobs: Vec<&mut PlannedJob>,
) -> anyhow::Result<Staged> {
    let mut files: BTreeMap<ItemUri, (PathBuf, Vec<&mut JobItem>)> = BTreeMap::new();
    for item in jobs.into_iter().flat_map(|job| job.items.iter_mut()).filter(|item| item.fetch.is_none()) {
        if let Location::File(path) = item.uri.location() {
            // The segments of a video have one copy.
            files.entry(item.uri.clone()).or_insert((path, Vec::new())).1.push(item);
        }
    }
    futures::stream::iter(files.into_values())
        .map(|(path, items)| async move {
            let Some(first) = items.first() else { return Ok((0, 0)) };
            let (copy, count) = stage_one(archive, uri, first, &path).await?;
            for item in items {
                item.fetch = Some(copy.address.clone());
                if let Some((sha256, size)) = &copy.content {
                    item.sha256 = Some(sha256.clone());
                    item.size = Some(*size);
                }
            }
            anyhow::Ok(count)
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(Staged::default(), |sum, (sent, present)| async move {
            Ok(Staged { sent: sum.sent + sent, present: sum.present + present })
        })
        .await
}

/// Where a copy is, and what was read for it.
struct Copy {
    address: ItemUri,
    content: Option<Content>,
}

async fn stage_one(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    item: &JobItem,
    path: &Path,
) -> anyhow::Result<(Copy, (u64, u64))> {
    if let Some(sha256) = &item.sha256 {
        let key = layout::staged(sha256);
        match archive.head(&key).await {
            Ok(_) => return Ok((Copy { address: address(uri, &key), content: None }, (0, 1))),
            Err(error) if error.kind() == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("copy {} into the archive", path.display())),
        }
    }
    let sent =
        if item.sample.is_some() { large_file(archive, path).await } else { picture(archive, path).await };
    let Some(content) = sent.with_context(|| format!("copy {} into the archive", item.uri))? else {
        // The worker will find no copy and say so in the row.
        let sha256 = item.sha256.clone().unwrap_or_else(|| "0".repeat(64));
        return Ok((Copy { address: address(uri, &layout::staged(&sha256)), content: None }, (0, 0)));
    };
    let key = layout::staged(&content.0);
    Ok((Copy { address: address(uri, &key), content: Some(content) }, (1, 0)))
}

/// The digest and the number of bytes that a copy is known by.
type Content = (String, u64);

/// Copies a picture; `None` if it cannot be read, or is too large for one.
async fn picture(archive: &dyn Storage, path: &Path) -> anyhow::Result<Option<Content>> {
    let Ok(found) = tokio::fs::metadata(path).await else { return Ok(None) };
    if found.len() > MOST_BYTES {
        return Ok(None);
    }
    if found.len() > IN_MEMORY {
        return large_file(archive, path).await;
    }
    let Ok(bytes) = tokio::fs::read(path).await else { return Ok(None) };
    let content = (hex::encode(Sha256::digest(&bytes)), bytes.len() as u64);
    archive.put(&layout::staged(&content.0), bytes.into(), PutMode::IfAbsent).await?;
    Ok(Some(content))
}

/// Copies a film, or a large picture; `None` if it cannot be read, or changes each time while it is. It is read twice, for its name
/// and for its copy, because it does not fit in memory: a recording that goes on meanwhile must not lie under the name of its
/// beginning.
async fn large_file(archive: &dyn Storage, path: &Path) -> anyhow::Result<Option<Content>> {
    for _ in 0..TRIES {
        let Ok(before) = tokio::fs::metadata(path).await else { return Ok(None) };
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || digest(&file)).await;
        let Ok(content) = read.context("a reading thread failed")? else { return Ok(None) };
        let key = layout::staged(&content.0);
        match archive.head(&key).await {
            Ok(_) => return Ok(Some(content)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        archive.put_file(&key, path).await?;
        let after = tokio::fs::metadata(path).await;
        if after.is_ok_and(|after| etag_of_file(&after) == etag_of_file(&before)) {
            return Ok(Some(content));
        }
        archive.delete(&key).await?;
    }
    Ok(None)
}

/// A row's picture as a worker can read it: a frame of a video as it was kept, a local picture for `remote` workers as its
/// copy. `None` for a frame that was not kept. `frame` is its time, and what [`layout::content_key`] makes of its row.
pub async fn readable(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    remote: bool,
    name: &ItemUri,
    frame: Option<(u64, u64)>,
    sha256: Option<&str>,
) -> Result<Option<JobItem>, StorageError> {
    let mut item = JobItem::new(name.clone());
    if let Some((frame_ms, content)) = frame {
        let key = layout::thumbnail(name, content, frame_ms);
        if !archive::is_there(archive, &key).await? {
            return Ok(None);
        }
        item.uri = address(uri, &key);
    } else if let (true, true, Some(sha256)) = (remote, name.is_local(), sha256) {
        item.fetch = Some(address(uri, &layout::staged(sha256)));
    }
    Ok(Some(item))
}

/// Where an object of the archive is for everyone.
pub fn address(archive: &ArchiveUri, key: &str) -> ItemUri {
    match archive.location() {
        Location::S3 { bucket, key: prefix } if prefix.is_empty() => ItemUri::s3(&bucket, key),
        Location::S3 { bucket, key: prefix } => ItemUri::s3(&bucket, &format!("{prefix}/{key}")),
        Location::File(folder) => {
            ItemUri::from_path(&folder.join(key)).expect("an archive's folder is absolute and tidy")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Staged, address, stage};
    use crate::planned_job::PlannedJob;
    use captionfleet_proto::job::{JobId, JobItem};
    use captionfleet_proto::layout;
    use captionfleet_proto::storage::{LocalStorage, Storage as _};
    use captionfleet_proto::uri::{ArchiveUri, ItemUri};

    #[tokio::test]
    async fn pictures_are_copied_however_large_workers_may_take_them() {
        let folder = tempfile::tempdir().unwrap();
        let (root, path) = (folder.path().join("archive"), folder.path().join("large.tiff"));
        let bytes = 300 << 20;
        std::fs::File::create_new(&path).unwrap().set_len(bytes).unwrap();
        let item = JobItem::new(ItemUri::from_path(&path).unwrap());
        let mut job = PlannedJob { id: JobId::new("job").unwrap(), items: vec![item], begun: false };
        let (archive, uri) = (LocalStorage::new(root.clone()), ArchiveUri::from_folder(&root).unwrap());
        let staged = stage(&archive, &uri, vec![&mut job]).await.unwrap();
        assert_eq!(staged, Staged { sent: 1, present: 0 });
        let item = &job.items[0];
        let key = layout::staged(item.sha256.as_ref().unwrap());
        assert_eq!((item.fetch.clone(), item.size), (Some(address(&uri, &key)), Some(bytes)));
        assert_eq!(archive.head(&key).await.unwrap().size, bytes);
    }

    #[test]
    fn the_index_and_the_archive_know_bytes_by_the_same_key() {
        for content in ["aa", "\"an etag\""] {
            let key = captionfleet_index::content_key(content);
            assert_eq!(layout::content_key(Some(content), Some("other")), key);
            assert_eq!(layout::content_key(None, Some(content)), key);
        }
    }

    #[test]
    fn copies_lie_inside_the_archive() {
        let of = |archive: &str| address(&ArchiveUri::parse(archive).unwrap(), "staged/ab/abc").to_string();
        assert_eq!(of("s3://b"), "s3://b/staged/ab/abc");
        assert_eq!(of("s3://b/x y/"), "s3://b/x%20y/staged/ab/abc");
        assert_eq!(of("/a/b"), "file:///a/b/staged/ab/abc");
    }
}
