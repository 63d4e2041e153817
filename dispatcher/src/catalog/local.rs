//! Files, folders and patterns of this machine.

use super::digest::{self, Found};
use super::folder::{self, Entry};
use super::pattern;
use super::source::is_pattern;
use super::{CatalogError, Item, LocalRules};
use captionfleet_proto::uri::ItemUri;
use rayon::prelude::*;
use std::path::{Component, Path, PathBuf};

/// Lists the items of one local source.
pub(super) fn list(path: &Path, rules: &LocalRules) -> Result<Vec<Item>, CatalogError> {
    let mut entries = Vec::new();
    match std::fs::symlink_metadata(path) {
        Ok(_) => add_existing(path, rules, &mut entries)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = path.to_str().filter(|text| is_pattern(text));
            let Some(text) = text else {
                return Err(CatalogError::Missing { path: path.to_owned() });
            };
            for matched in pattern::matches(text)? {
                // What matched may vanish before it is read: then it is an item that fails.
                add_matched(&matched, rules, &mut entries)?;
            }
        }
        Err(source) => return Err(CatalogError::Unreadable { path: path.to_owned(), source }),
    }
    entries.into_par_iter().map(item).collect()
}

/// A path that was named: whatever it is called, it counts.
fn add_existing(path: &Path, rules: &LocalRules, entries: &mut Vec<Entry>) -> Result<(), CatalogError> {
    let named = absolute(path)?;
    match std::fs::metadata(&named) {
        Ok(metadata) if metadata.is_dir() => folder::walk(&named, rules, entries)
            .map_err(|source| CatalogError::Unreadable { path: path.to_owned(), source }),
        Ok(metadata) if metadata.is_file() => {
            entries.push(Entry::File(named));
            Ok(())
        }
        Ok(_) => Err(CatalogError::Special { path: path.to_owned() }),
        Err(source) => Err(CatalogError::Unreadable { path: path.to_owned(), source }),
    }
}

/// A path that a pattern matched: devices and pipes are passed over, names are held to the rules.
fn add_matched(path: &Path, rules: &LocalRules, entries: &mut Vec<Entry>) -> Result<(), CatalogError> {
    let named = absolute(path)?;
    match std::fs::metadata(&named) {
        Ok(metadata) if metadata.is_dir() => {
            if let Err(error) = folder::walk(&named, rules, entries) {
                entries.push(Entry::Unreadable(named, error));
            }
        }
        Ok(metadata) if metadata.is_file() => {
            if rules.takes(&named) {
                entries.push(Entry::File(named));
            }
        }
        Ok(_) => {}
        Err(error) => entries.push(Entry::Unreadable(named, error)),
    }
    Ok(())
}

/// An absolute path without `.` and `..`, as rows name it; symbolic links keep their own names, and the file may be gone.
///
/// # Errors
/// When the system cannot say where a path with `..` leads.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CatalogError> {
    let unreadable = |source| CatalogError::Unreadable { path: path.to_owned(), source };
    if path.components().any(|part| part == Component::ParentDir) {
        // `link/..` is not where it seems to be: only the system can resolve it.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return match (parent, path.file_name()) {
            (Some(parent), Some(name)) => {
                parent.canonicalize().map(|parent| parent.join(name)).map_err(unreadable)
            }
            _ => path.canonicalize().map_err(unreadable),
        };
    }
    std::path::absolute(path).map_err(unreadable)
}

fn item(entry: Entry) -> Result<Item, CatalogError> {
    let Found { path, identity, size } = digest::read(entry);
    let uri = ItemUri::from_path(&path).map_err(|error| CatalogError::Name {
        location: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(Item { uri, identity, size })
}
