//! How many calls of a file system run at a time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of one file system at a time. One that hangs keeps its thread for as long, whoever waits for it, and the runtime has
/// those threads for much else.
pub(in crate::storage) const PLACES: usize = 32;
/// What is mounted where, as the kernel says.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Places for calls of file systems, of each its own: who reads from one that answers does not wait for one that hangs.
#[derive(Debug, Default)]
pub(in crate::storage) struct Places {
    by_mount: Mutex<HashMap<PathBuf, Arc<Semaphore>>>,
}

impl Places {
    /// Waits for a place to call the file system of `path`.
    pub(in crate::storage) async fn place(&self, path: &Path) -> OwnedSemaphorePermit {
        let mount = mount_of(path, &std::fs::read(MOUNTS).unwrap_or_default());
        let places = {
            let mut by_mount = self.by_mount.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_mount.entry(mount).or_insert_with(|| Arc::new(Semaphore::new(PLACES))))
        };
        places.acquire_owned().await.expect("it is never closed")
    }
}

/// Where the file system of `path` is mounted, links left aside: to ask it may hang. Where no table tells, all are one.
fn mount_of(path: &Path, table: &[u8]) -> PathBuf {
    let lines = table.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    let above = mounts.filter(|mount| path.starts_with(mount));
    above.max_by_key(|mount| mount.as_os_str().len()).unwrap_or_default()
}

/// A path as it is; the table has some bytes, spaces above all, as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    loop {
        match rest {
            [b'\\', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', after @ ..] => {
                bytes.push(((high - b'0') << 6) | ((middle - b'0') << 3) | (low - b'0'));
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
            [] => return OsString::from_vec(bytes).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_in_the_nearest_mount_above_it() {
        let table = b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            30 22 0:41 / /mnt/all\\040pictures rw shared:1 - nfs4 server:/ rw\n\
            31 30 0:42 / /mnt/all\\040pictures/old rw - nfs4 server:/old rw\n";
        for (path, mount) in [
            ("/mnt/all pictures/a.png", "/mnt/all pictures"),
            ("/mnt/all pictures/old/a.png", "/mnt/all pictures/old"),
            ("/mnt/all pictures/older/a.png", "/mnt/all pictures"),
            ("/mnt/all\\040pictures/a.png", "/"),
        ] {
            assert_eq!(mount_of(Path::new(path), table), Path::new(mount), "{path}");
        }
        assert_eq!(mount_of(Path::new("/a"), b""), Path::new(""));
    }
}
