//! Keys to paths below the root, and nowhere else.

use std::path::{Path, PathBuf};

use super::UNFINISHED;
use crate::storage::{StorageError, StorageErrorKind};

/// The file of `key`; refuses keys that name no file below `root`.
pub(super) fn path(root: &Path, key: &str, operation: &'static str) -> Result<PathBuf, StorageError> {
    if let Some(problem) = problem(key) {
        let object = format!("`{}` in {}", key.escape_debug(), root.display());
        return Err(StorageError::new(StorageErrorKind::InvalidUri, operation, object, problem));
    }
    Ok(root.join(key))
}

fn problem(key: &str) -> Option<&'static str> {
    if key.contains('\0') {
        return Some("the key contains a NUL byte");
    }
    key.split('/').find_map(|segment| match segment {
        "" => Some("the key has an empty segment, which no file name can be"),
        "." | ".." => Some("the key has a `.` or `..` segment, which would name another file"),
        _ if segment.starts_with(UNFINISHED) => Some("the key has a segment reserved for unfinished files"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stays_below_the_root() {
        let root = Path::new("/archive");
        assert_eq!(path(root, "a/b c", "reading").unwrap(), Path::new("/archive/a/b c"));
        for bad in
            ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\0b", "a/.captionfleet-1"]
        {
            let error = path(root, bad, "reading").unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::InvalidUri, "{bad:?}");
        }
    }
}
