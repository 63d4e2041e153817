//! The SHA-256 of local files.

use super::folder::Entry;
use super::{Identity, Unreadable};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A file with what its content is known by.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) size: Option<u64>,
}

/// Reads an entry's bytes once.
pub(super) fn read(entry: Entry) -> Found {
    let (path, outcome) = match entry {
        Entry::File(path) => {
            let outcome = sha256(&path);
            (path, outcome)
        }
        Entry::Unreadable(path, error) => (path, Err(error)),
    };
    match outcome {
        Ok((digest, size)) => Found { path, identity: Identity::Sha256(digest), size: Some(size) },
        Err(error) => {
            let identity = Identity::Unreadable(unreadable(&path, &error));
            Found { path, identity, size: None }
        }
    }
}

/// The digest and the number of bytes.
pub(crate) fn sha256(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hex::encode(hasher.finalize()), size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Unreadable {
    let code = match error.kind() {
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::NotFound => "not_found",
        // A link that leads to itself leads nowhere.
        _ if path.is_symlink() => "not_found",
        _ => "internal",
    };
    Unreadable { code, message: error.to_string() }
}
