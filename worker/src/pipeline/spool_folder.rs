//! The folder of a worker's copies. It goes with the worker; of a worker that was killed it stays, and goes when another one
//! is started.
//!
//! A folder is locked for as long as its worker lives, and the system unlocks it when the worker is gone, however that came
//! about: what can be locked belongs to nobody.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What the names of all such folders begin with.
const PREFIX: &str = "captionfleet-spool-";

/// A folder of this worker alone.
#[derive(Debug)]
pub(super) struct SpoolFolder {
    folder: TempDir,
    /// Held for as long as the folder is used.
    _lock: File,
}

impl SpoolFolder {
    /// Makes a folder inside `parent`, or inside the system's temporary folder.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn make(parent: Option<&Path>) -> io::Result<Self> {
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place(parent))?;
            let lock = File::open(folder.path())?;
            match lock.lock() {
                // Between two steps of ours, somebody who was started at this moment may have taken it for left.
                Ok(()) if !folder.path().exists() => {}
                // Where folders cannot be locked nobody can lock this one to remove it.
                Ok(()) | Err(_) => return Ok(Self { folder, _lock: lock }),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes folders in the same place whose workers are gone. What cannot be removed stays: it may be another user's.
    pub(super) fn tidy(parent: Option<&Path>) {
        let Ok(entries) = std::fs::read_dir(place(parent)) else { return };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            let Ok(lock) = File::open(entry.path()) else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            match std::fs::remove_dir_all(entry.path()) {
                Ok(()) => {
                    tracing::info!(folder = %entry.path().display(), "copies of a worker that is gone were removed")
                }
                Err(error) => tracing::debug!(folder = %entry.path().display(), %error, "old copies stay"),
            }
        }
    }
}

/// Whether the disk of such folders takes a file, and has `bytes` left.
pub(super) fn has_room(parent: Option<&Path>, bytes: u64) -> bool {
    let place = place(parent);
    let Ok(disk) = rustix::fs::statvfs(&place) else { return false };
    disk.f_bavail.saturating_mul(disk.f_frsize) >= bytes && tempfile::tempfile_in(place).is_ok()
}

fn place(parent: Option<&Path>) -> PathBuf {
    parent.map_or_else(std::env::temp_dir, Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    /// A process of its own that holds a folder as a worker does, until it is killed.
    const HOLDER: &str = "exec 9<\"$1\" && flock -x 9 && echo held && exec sleep 600";

    #[test]
    fn folders_of_the_killed_go_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(format!("{PREFIX}left"));
        let strange = parent.path().join("somebody else's");
        for folder in [&left, &strange] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("1"), b"film").unwrap();
        }
        let mine = SpoolFolder::make(Some(parent.path())).unwrap();
        let mut holder =
            Command::new("sh").args(["-c", HOLDER, "sh"]).arg(&left).stdout(Stdio::piped()).spawn().unwrap();
        let mut held = String::new();
        let mut output = io::BufReader::new(holder.stdout.take().unwrap());
        io::BufRead::read_line(&mut output, &mut held).unwrap();
        assert_eq!(held, "held\n");
        SpoolFolder::tidy(Some(parent.path()));
        assert!(left.exists() && mine.path().exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
        SpoolFolder::tidy(Some(parent.path()));
        assert!(!left.exists(), "its worker was killed");
        assert!(mine.path().exists() && strange.join("1").exists());
        let gone = mine.path().to_owned();
        drop(mine);
        assert!(!gone.exists());
    }
}
