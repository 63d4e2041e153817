//! Where what was fetched is kept between starts.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use captionfleet_proto::storage::{CopyError, ObjectMeta, Storage, copy_to_file};
use tempfile::NamedTempFile;

/// The folder named by `CAPTIONFLEET_CACHE`, or the user's cache folder.
///
/// # Errors
/// When none of them is known.
pub fn folder() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("CAPTIONFLEET_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("captionfleet")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/captionfleet")))
        .context("there is no place to keep what is fetched: set CAPTIONFLEET_CACHE to a folder")
}

/// Where copies of bundles in buckets are kept.
///
/// # Errors
/// As [`folder`].
pub(super) fn bundles() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join("bundles"))
}

/// What was copied is not what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{0} is damaged: its hash is not the recorded one; upload the bundle again")]
pub(super) struct DamagedCopy(String);

/// Writes a file that is either whole or not there.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut file = beside(path)?;
        file.write_all(bytes)?;
        keep(file, path)
    };
    write().with_context(|| cannot_keep(path))
}

/// Copies an object to a file that is either whole or not there; `expected` is the SHA-256 of its bytes, where it is known.
pub(super) async fn copy_whole(
    store: &dyn Storage,
    object: &ObjectMeta,
    path: &Path,
    expected: Option<&str>,
) -> anyhow::Result<()> {
    let unfinished = || {
        let file = beside(path)?;
        Ok::<_, std::io::Error>((file.reopen()?, file))
    };
    let (out, file) = unfinished().with_context(|| cannot_keep(path))?;
    let digest = match copy_to_file(store, object, out).await {
        Err(CopyError::Read(error)) => return Err(error.into()),
        copied => copied.with_context(|| cannot_keep(path))?,
    };
    anyhow::ensure!(expected.is_none_or(|expected| expected == digest), DamagedCopy(object.key.clone()));
    keep(file, path).with_context(|| cannot_keep(path))
}

/// A file that vanishes unless it is kept, on the disk where it is to be kept.
fn beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    NamedTempFile::new_in(folder)
}

/// Puts a file in its place when all of it is on the disk.
fn keep(file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn cannot_keep(path: &Path) -> String {
    format!("cannot keep {} (set CAPTIONFLEET_CACHE to another folder)", path.display())
}
