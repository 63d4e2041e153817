//! Walking a folder on a thread of its own.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{UNFINISHED, describe, fault};
use crate::storage::{ObjectMeta, StorageError};

type Found = Result<ObjectMeta, StorageError>;

/// How far the walk may run ahead of who listens.
const AHEAD: usize = 1024;

/// Begins a walk; it ends when the receiver is dropped.
pub(super) fn start(root: PathBuf, prefix: String) -> Receiver<Found> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let walk = Walk { prefix: &prefix, sender: &sender };
        // Ends early when nobody listens any more, which is no failure.
        let _ = walk.folder(&root, "", &mut Vec::new());
    });
    receiver
}

/// Nobody listens any more.
struct Abandoned;

struct Walk<'a> {
    prefix: &'a str,
    sender: &'a Sender<Found>,
}

impl Walk<'_> {
    /// `key` is the folder's own, empty or with a slash at its end; `above` are the folders that lead here.
    fn folder(&self, path: &Path, key: &str, above: &mut Vec<(u64, u64)>) -> Result<(), Abandoned> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.send(Err(fault::new("listing", path, error))),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.send(Err(fault::new("listing", path, error))),
            };
            // A name that is not UTF-8 is no key, so no object of ours.
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with(UNFINISHED)) else {
                continue;
            };
            let key = format!("{key}{name}");
            if !self.may_lead_to_match(&key) {
                continue;
            }
            let path = entry.path();
            match path.metadata() {
                Ok(metadata) => self.entry(&path, key, &metadata, above)?,
                // Gone meanwhile, or a link to nowhere.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => self.send(Err(fault::new("listing", &path, error)))?,
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        path: &Path,
        key: String,
        metadata: &Metadata,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), Abandoned> {
        if metadata.is_file() && key.starts_with(self.prefix) {
            return self.send(Ok(describe(key, metadata)));
        }
        let identity = (metadata.dev(), metadata.ino());
        // A link to a folder above would lead in a circle.
        if metadata.is_dir() && !above.contains(&identity) {
            above.push(identity);
            self.folder(path, &format!("{key}/"), above)?;
            above.pop();
        }
        Ok(())
    }

    /// Whether this key, or one below it, can begin with the prefix.
    fn may_lead_to_match(&self, key: &str) -> bool {
        key.starts_with(self.prefix)
            || self.prefix.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'))
    }

    fn send(&self, found: Found) -> Result<(), Abandoned> {
        self.sender.blocking_send(found).map_err(|_| Abandoned)
    }
}
