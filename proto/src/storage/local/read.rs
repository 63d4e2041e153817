//! Reading regular files, and those only: nothing here can hang on a pipe or be flooded by a device.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::{etag_of_file, fault};
use crate::storage::{LocalRoots, Object, StorageError, StorageErrorKind};

const READING: &str = "reading";

/// How often a file that changes under the reader is read again.
const READS: usize = 3;

/// Reads a file of at most `max_bytes`.
pub(super) fn read_file(path: &Path, max_bytes: u64) -> Result<Object, StorageError> {
    stat_file(path, READING)?;
    read_open(open(path, OFlags::empty())?, path, max_bytes)
}

/// Reads a piece of a file.
pub(super) fn read_range(path: &Path, offset: u64, length: u64) -> Result<Object, StorageError> {
    let failed = |error: io::Error| fault::new(READING, path, error);
    stat_file(path, READING)?;
    let mut file = open(path, OFlags::empty())?;
    let metadata = file.metadata().map_err(failed)?;
    require_regular(&metadata, path, READING)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).map_err(failed)?;
    let there = metadata.len().saturating_sub(offset).min(length);
    let mut bytes = Vec::with_capacity(there as usize);
    file.take(length).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Object { bytes: Bytes::from(bytes), etag: Some(etag_of_file(&metadata)) })
}

/// The path without links of an item that `roots` allow, for programs that open it themselves.
pub(in crate::storage) fn item_path(path: &Path, roots: &LocalRoots) -> Result<PathBuf, StorageError> {
    let real = match roots {
        LocalRoots::Any => path.canonicalize().map_err(|error| fault::new(READING, path, error))?,
        LocalRoots::None => return Err(refused(path, "local files are not read here")),
        LocalRoots::Only(roots) => real_path(path, roots)?,
    };
    stat_file(&real, READING)?;
    // Whoever may not read it learns so here, with the reason.
    open(&real, OFlags::NOFOLLOW)?;
    Ok(real)
}

/// Whether `roots` allow an archive in this folder, which need not exist yet.
pub(in crate::storage) fn allow_archive(folder: &Path, roots: &LocalRoots) -> Result<(), StorageError> {
    const OPENING: &str = "opening";
    let refused =
        |problem| Err(StorageError::new(StorageErrorKind::Refused, OPENING, fault::uri(folder), problem));
    let roots = match roots {
        LocalRoots::Any => return Ok(()),
        LocalRoots::None => return refused("archives in local folders are not written here"),
        LocalRoots::Only(roots) => roots,
    };
    let nearest = folder.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(folder);
    let climbs = folder.components().any(|component| component == Component::ParentDir);
    let Ok(real) = nearest.canonicalize() else { return refused("a link on its way leads nowhere") };
    if climbs || !is_below(&real, roots) {
        return refused("lies outside the folders in which archives may be written");
    }
    Ok(())
}

/// Whether the file system of `path` answers, be it that there is nothing.
pub(in crate::storage) fn answers(path: &Path) -> bool {
    let looked = path.metadata().map_err(|error| fault::new(READING, path, error));
    looked.err().is_none_or(|error| !error.is_transient())
}

/// Looks at a file; a folder is no object.
pub(super) fn stat_file(path: &Path, operation: &'static str) -> Result<Metadata, StorageError> {
    let metadata = path.metadata().map_err(|error| fault::new(operation, path, error))?;
    require_regular(&metadata, path, operation)?;
    Ok(metadata)
}

/// Reads an item of at most `max_bytes` if `roots` allow it.
pub(in crate::storage) fn read_item(
    path: &Path,
    max_bytes: u64,
    roots: &LocalRoots,
) -> Result<Object, StorageError> {
    let roots = match roots {
        LocalRoots::Any => return read_file(path, max_bytes),
        LocalRoots::None => return Err(refused(path, "local files are not read here")),
        LocalRoots::Only(roots) => roots,
    };
    let real = real_path(path, roots)?;
    stat_file(&real, READING)?;
    // Whoever swaps a folder for a link between the check and the opening is found out afterwards: what was opened
    // must still be what lies at an allowed path.
    let file = open(&real, OFlags::NOFOLLOW)?;
    let opened = file.metadata().map_err(|error| fault::new(READING, path, error))?;
    let checked = real_path(path, roots)?.metadata().map_err(|error| fault::new(READING, path, error))?;
    if (opened.dev(), opened.ino()) != (checked.dev(), checked.ino()) {
        return Err(refused(path, "the path changed while it was being opened"));
    }
    read_open(file, path, max_bytes)
}

/// The path without links, if it lies below one of `roots`.
fn real_path(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, StorageError> {
    let real = path.canonicalize().map_err(|error| {
        // Whether a file exists outside the roots is nobody's business.
        let named_inside = roots.iter().any(|root| path.starts_with(root));
        if named_inside { fault::new(READING, path, error) } else { outside(path) }
    })?;
    if is_below(&real, roots) { Ok(real) } else { Err(outside(path)) }
}

/// Whether a path without links lies below one of `roots`.
fn is_below(real: &Path, roots: &[PathBuf]) -> bool {
    // What has no links has none on its way. The others need not be looked at then: their file systems may hang.
    roots.iter().any(|root| root.is_absolute() && real.starts_with(root))
        || roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root))
}

/// Opens without waiting: a pipe that nobody writes to would otherwise block for ever.
fn open(path: &Path, flags: OFlags) -> Result<File, StorageError> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    opened.map_err(|error| fault::new(READING, path, error))
}

fn read_open(mut file: File, path: &Path, max_bytes: u64) -> Result<Object, StorageError> {
    let failed = |error: io::Error| fault::new(READING, path, error);
    let mut before = file.metadata().map_err(failed)?;
    for _ in 0..READS {
        require_regular(&before, path, READING)?;
        if before.len() > max_bytes {
            return Err(too_large(path, before.len(), max_bytes));
        }
        let mut bytes = Vec::with_capacity(before.len() as usize + 1);
        (&mut file).take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        if etag_of_file(&before) == etag_of_file(&after) {
            // Files of /proc and the like have more bytes than they say.
            if bytes.len() as u64 > max_bytes {
                return Err(too_large(path, bytes.len() as u64, max_bytes));
            }
            return Ok(Object { bytes: Bytes::from(bytes), etag: Some(etag_of_file(&after)) });
        }
        io::Seek::rewind(&mut file).map_err(failed)?;
        before = after;
    }
    let problem = "the file keeps changing while it is read: try again when it is complete";
    Err(StorageError::new(StorageErrorKind::Unavailable, READING, fault::uri(path), problem))
}

fn require_regular(metadata: &Metadata, path: &Path, operation: &'static str) -> Result<(), StorageError> {
    if metadata.is_file() {
        return Ok(());
    }
    let (kind, problem) = if metadata.is_dir() {
        // A source's folder that could not be listed stands in the run as an item: its row says why.
        if let Err(error) = std::fs::read_dir(path) {
            return Err(fault::new("listing", path, error));
        }
        (StorageErrorKind::NotFound, "a folder has that name, not a file")
    } else {
        (StorageErrorKind::Refused, "not a regular file (a pipe, socket or device)")
    };
    Err(StorageError::new(kind, operation, fault::uri(path), problem))
}

fn too_large(path: &Path, size: u64, limit: u64) -> StorageError {
    let problem = format!("has {size} bytes, at most {limit} are read");
    StorageError::new(StorageErrorKind::TooLarge, READING, fault::uri(path), problem)
}

fn outside(path: &Path) -> StorageError {
    refused(path, "lies outside the folders that may be read")
}

fn refused(path: &Path, problem: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Refused, READING, fault::uri(path), problem)
}
