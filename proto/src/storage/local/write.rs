//! Writing whole files or none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags};
use tempfile::NamedTempFile;

use super::{UNFINISHED, fault};
use crate::storage::{PutMode, PutOutcome, StorageError, StorageErrorKind};

const WRITING: &str = "writing";
/// Before the user's mask.
const FILE_MODE: u32 = 0o666;

/// Writes an object's bytes into the file that becomes it.
type Writing<'a> = &'a dyn Fn(&mut File) -> io::Result<()>;

pub(super) fn put(path: &Path, bytes: &[u8], mode: PutMode) -> Result<PutOutcome, StorageError> {
    write(path, &|file| file.write_all(bytes), mode)
}

pub(super) fn put_file(path: &Path, source: &Path) -> Result<(), StorageError> {
    let copy = |file: &mut File| io::copy(&mut File::open(source)?, file).map(drop);
    write(path, &copy, PutMode::Overwrite).map(drop)
}

fn write(path: &Path, bytes: Writing<'_>, mode: PutMode) -> Result<PutOutcome, StorageError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let failed = |error| in_the_way(path).unwrap_or_else(|| fault::new(WRITING, path, error));
    make_folder(folder).map_err(failed)?;
    if path.is_dir() {
        return Err(in_the_way_of_file(path, path));
    }
    if mode == PutMode::IfAbsent && path.symlink_metadata().is_ok() {
        return Ok(PutOutcome::Exists);
    }
    let outcome = publish(folder, path, bytes, mode).map_err(failed)?;
    sync_folder(folder).map_err(failed)?;
    Ok(outcome)
}

pub(super) fn delete(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(()); // a folder is no object
    }
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(fault::new("deleting", path, error))
        }
        _ => Ok(()),
    }
}

/// Writes a draft in the folder, makes it durable, and only then gives it its name.
fn publish(folder: &Path, path: &Path, bytes: Writing<'_>, mode: PutMode) -> io::Result<PutOutcome> {
    if let Some(mut draft) = nameless(folder)? {
        bytes(&mut draft)?;
        draft.sync_all()?;
        match (mode, link(&draft, path)) {
            (_, Ok(())) => return Ok(PutOutcome::Created),
            (PutMode::IfAbsent, Err(error)) if error.kind() == ErrorKind::AlreadyExists => {
                return Ok(PutOutcome::Exists);
            }
            (PutMode::Overwrite, Err(error)) if error.kind() == ErrorKind::AlreadyExists => {
                return replace(&draft, folder, path).map(|()| PutOutcome::Created);
            }
            // No /proc, or a file system without hard links: take the long way.
            (_, Err(_)) => {}
        }
    }
    let mut draft = named(folder)?;
    bytes(draft.as_file_mut())?;
    draft.as_file().sync_all()?;
    match mode {
        PutMode::Overwrite => draft.persist(path).map(|_| PutOutcome::Created).map_err(|failed| failed.error),
        PutMode::IfAbsent => match draft.persist_noclobber(path) {
            Ok(_) => Ok(PutOutcome::Created),
            Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Ok(PutOutcome::Exists),
            Err(failed) => Err(failed.error),
        },
    }
}

/// A file that vanishes with the process unless it is linked; none where the file system has no such thing.
fn nameless(folder: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE.bits() as i32;
    match OpenOptions::new().write(true).mode(FILE_MODE).custom_flags(flags).open(folder) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Err(error),
        Err(_) => Ok(None),
    }
}

fn named(folder: &Path) -> io::Result<NamedTempFile> {
    let permissions = fs::Permissions::from_mode(FILE_MODE);
    tempfile::Builder::new().prefix(UNFINISHED).permissions(permissions).tempfile_in(folder)
}

/// Gives a nameless file a name that nobody has yet.
fn link(draft: &File, path: &Path) -> io::Result<()> {
    let open = PathBuf::from(format!("/proc/self/fd/{}", draft.as_raw_fd()));
    Ok(rustix::fs::linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Gives a nameless file a name that is taken: through a name of its own, which lives for an instant.
fn replace(draft: &File, folder: &Path, path: &Path) -> io::Result<()> {
    let own = folder.join(format!("{UNFINISHED}{:016x}", rand::random::<u64>()));
    link(draft, &own)?;
    fs::rename(&own, path).inspect_err(|_| drop(fs::remove_file(&own)))
}

/// Makes the folder and what is missing above it, durably.
fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|opened| opened.sync_all()) {
        // Some network file systems cannot sync a folder, and have nothing to sync; one may write but not list.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied) => Ok(()),
        done => done,
    }
}

/// The error if a file stands where the key needs a folder.
fn in_the_way(path: &Path) -> Option<StorageError> {
    let nearest = path.ancestors().skip(1).find(|ancestor| ancestor.symlink_metadata().is_ok())?;
    (!nearest.is_dir()).then(|| in_the_way_of_file(path, nearest))
}

fn in_the_way_of_file(path: &Path, obstacle: &Path) -> StorageError {
    let what = if obstacle.is_dir() { "a folder" } else { "a file, not a folder" };
    let problem = format!("{} is {what}", obstacle.display());
    StorageError::new(StorageErrorKind::InvalidUri, WRITING, fault::uri(path), problem)
}
