//! Copying local pictures into the archive, where workers on other machines can read them.
//!
//! A copy is named by its content: what is there already is not copied again, and an interrupted run leaves nothing
//! that would be wrong. The row keeps the picture's own name.

use crate::plan::PlannedJob;
use anyhow::Context as _;
use bytes::Bytes;
use captionfleet_proto::job::JobItem;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, StorageErrorKind};
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Files that are read and sent at once.
const AT_ONCE: usize = 16;
/// Files above this size are not copied: no worker would decode them.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Pictures that were sent.
    pub sent: u64,
    /// Pictures that were there already.
    pub present: u64,
}

/// Copies the local pictures of `jobs` and tells each item where its copy is.
///
/// A file that has gone or changed its size beyond the limit gets the address of a copy that does not exist: its row
/// will say `not_found`.
pub async fn stage(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    jobs: Vec<&mut PlannedJob>,
) -> anyhow::Result<Staged> {
    let items = jobs.into_iter().flat_map(|job| job.items.iter_mut()).filter(|item| item.fetch.is_none());
    let copies = items.filter_map(|item| match item.uri.location() {
        Location::File(path) => Some((item, path)),
        Location::S3 { .. } => None,
    });
    futures::stream::iter(copies)
        .map(|(item, path)| stage_one(archive, uri, item, path))
        .buffer_unordered(AT_ONCE)
        .try_fold(Staged::default(), |sum, (sent, present)| async move {
            Ok(Staged { sent: sum.sent + sent, present: sum.present + present })
        })
        .await
}

async fn stage_one(
    archive: &dyn Storage,
    uri: &ArchiveUri,
    item: &mut JobItem,
    path: PathBuf,
) -> anyhow::Result<(u64, u64)> {
    if let Some(sha256) = &item.sha256 {
        let key = layout::staged(sha256);
        item.fetch = Some(address(uri, &key));
        match archive.head(&key).await {
            Ok(_) => return Ok((0, 1)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("copy {} into the archive", path.display())),
        }
    }
    let read = tokio::task::spawn_blocking(move || read(&path)).await.context("a reading thread failed")?;
    let Ok(Some((bytes, sha256))) = read else {
        // The worker will find no copy and say so in the row.
        item.fetch.get_or_insert_with(|| address(uri, &layout::staged(&"0".repeat(64))));
        return Ok((0, 0));
    };
    let key = layout::staged(&sha256);
    item.fetch = Some(address(uri, &key));
    item.size = Some(bytes.len() as u64);
    item.sha256 = Some(sha256);
    archive
        .put(&key, bytes, PutMode::IfAbsent)
        .await
        .with_context(|| format!("copy {} into the archive", item.uri))?;
    Ok((1, 0))
}

fn read(path: &Path) -> std::io::Result<Option<(Bytes, String)>> {
    if std::fs::metadata(path)?.len() > MOST_BYTES {
        return Ok(None);
    }
    let bytes = std::fs::read(path)?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    Ok(Some((bytes.into(), sha256)))
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

    use super::address;
    use captionfleet_proto::uri::ArchiveUri;

    #[test]
    fn copies_lie_inside_the_archive() {
        let of = |archive: &str| address(&ArchiveUri::parse(archive).unwrap(), "staged/ab/abc").to_string();
        assert_eq!(of("s3://b"), "s3://b/staged/ab/abc");
        assert_eq!(of("s3://b/x y/"), "s3://b/x%20y/staged/ab/abc");
        assert_eq!(of("/a/b"), "file:///a/b/staged/ab/abc");
    }
}
