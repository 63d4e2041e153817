//! What the file system says, as kinds and sentences.

use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;

use crate::storage::{StorageError, StorageErrorKind};
use crate::uri::ItemUri;

/// The path as a URI, for error messages.
pub(super) fn uri(path: &Path) -> String {
    ItemUri::from_path(path).map_or_else(|_| path.display().to_string(), String::from)
}

/// `error` came from `operation` ("reading") on `path`.
pub(super) fn new(operation: &'static str, path: &Path, error: io::Error) -> StorageError {
    let (kind, problem) = classify(&error);
    let failed = StorageError::new(kind, operation, uri(path), problem);
    // The sentence says all that these have to say.
    if matches!(kind, StorageErrorKind::NotFound) { failed } else { failed.caused_by(error) }
}

fn classify(error: &io::Error) -> (StorageErrorKind, &'static str) {
    use StorageErrorKind as Kind;
    match error.kind() {
        ErrorKind::NotFound => (Kind::NotFound, "no such file"),
        ErrorKind::NotADirectory => (Kind::NotFound, "no such file, a part of the path is not a folder"),
        ErrorKind::PermissionDenied => (
            Kind::PermissionDenied,
            "this user may not: check the owner and mode of the file and its folders",
        ),
        ErrorKind::ReadOnlyFilesystem => (Kind::PermissionDenied, "the file system is mounted read-only"),
        ErrorKind::StorageFull => (Kind::NoSpace, "the disk is full: free some space"),
        ErrorKind::QuotaExceeded => (Kind::NoSpace, "the quota is used up: free some space"),
        ErrorKind::FileTooLarge => (Kind::NoSpace, "the file would exceed a limit of the system"),
        ErrorKind::InvalidFilename => (Kind::InvalidUri, "the name is too long for the file system"),
        ErrorKind::IsADirectory => (Kind::InvalidUri, "a folder has that name"),
        ErrorKind::TimedOut => (Kind::Timeout, "the file system did not answer in time"),
        ErrorKind::WouldBlock => (Kind::Refused, "not a regular file: it has nothing to read now"),
        ErrorKind::StaleNetworkFileHandle | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            (Kind::Unavailable, "the network file system is away")
        }
        _ => match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                (Kind::Unavailable, "too many open files: raise the limit (ulimit -n)")
            }
            Some(Errno::LOOP) => {
                (Kind::InvalidUri, "symbolic links lead in a circle, or may not be followed")
            }
            _ => (Kind::Other, "the file system failed"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_passes_from_what_does_not() {
        for (errno, kind, transient) in [
            (Errno::NOSPC, StorageErrorKind::NoSpace, true),
            (Errno::DQUOT, StorageErrorKind::NoSpace, true),
            (Errno::MFILE, StorageErrorKind::Unavailable, true),
            (Errno::STALE, StorageErrorKind::Unavailable, true),
            (Errno::ACCESS, StorageErrorKind::PermissionDenied, false),
            (Errno::PERM, StorageErrorKind::PermissionDenied, false),
            (Errno::ROFS, StorageErrorKind::PermissionDenied, false),
            (Errno::NOENT, StorageErrorKind::NotFound, false),
            (Errno::NAMETOOLONG, StorageErrorKind::InvalidUri, false),
            (Errno::LOOP, StorageErrorKind::InvalidUri, false),
            (Errno::IO, StorageErrorKind::Other, false),
        ] {
            let error = new("writing", Path::new("/a b"), errno.into());
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{errno:?}");
            assert!(error.to_string().starts_with("writing file:///a%20b: "), "{error}");
        }
    }
}
