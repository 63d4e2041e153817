//! Where what was fetched is kept between starts.

use std::path::{Path, PathBuf};

use anyhow::Context;

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

/// Writes a file that is either whole or not there.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let parent = path.parent().context("a file of the cache lies in a folder")?;
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(parent)?;
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write()
        .with_context(|| format!("cannot keep {} (set CAPTIONFLEET_CACHE to another folder)", path.display()))
}
