//! Who writes the index: a notice, not a lock. Whoever overlooks it wastes work and breaks nothing.

use crate::archive::ArchiveError;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, PutOutcome, Storage, StorageErrorKind};
use captionfleet_worker::machine;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How long an indexer may be silent.
const TERM: SignedDuration = SignedDuration::from_secs(60);
/// Most bytes of the notice.
const BYTES: u64 = 64 * 1024;

/// The notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Notice {
    host: String,
    process: u32,
    until: Timestamp,
}

/// The right to write, for a while.
#[derive(Debug)]
pub(super) struct Lease {
    host: String,
    process: u32,
}

impl Lease {
    pub(super) fn new() -> Self {
        // Where the machine has no name, leases run out instead of being seen to be dead.
        Self { host: machine::host_name(), process: std::process::id() }
    }

    /// Takes or renews the lease; `false` if another process holds it.
    pub(super) async fn hold(&self, archive: &dyn Storage) -> Result<bool, ArchiveError> {
        let now = Timestamp::now();
        let mine = Notice { host: self.host.clone(), process: self.process, until: now + TERM };
        let text = serde_json::to_vec(&mine).expect("a notice is plain data");
        match read(archive).await? {
            Some(other) if !self.is_mine(&other) && !self.is_over(&other, now) => Ok(false),
            Some(_) => {
                archive.put(layout::INDEX_LEASE, text.into(), PutMode::Overwrite).await?;
                Ok(read(archive).await?.is_none_or(|notice| self.is_mine(&notice)))
            }
            None => {
                let put = archive.put(layout::INDEX_LEASE, text.into(), PutMode::IfAbsent).await?;
                let notice = read(archive).await?;
                Ok(put == PutOutcome::Created && notice.is_none_or(|notice| self.is_mine(&notice)))
            }
        }
    }

    /// Gives it up.
    pub(super) async fn release(&self, archive: &dyn Storage) -> Result<(), ArchiveError> {
        if read(archive).await?.is_some_and(|notice| self.is_mine(&notice)) {
            archive.delete(layout::INDEX_LEASE).await?;
        }
        Ok(())
    }

    fn is_mine(&self, notice: &Notice) -> bool {
        notice.host == self.host && notice.process == self.process
    }

    /// It ran out, or its process was of this machine and is no more.
    fn is_over(&self, notice: &Notice, now: Timestamp) -> bool {
        let dead = !self.host.is_empty()
            && notice.host == self.host
            && Path::new("/proc/self").exists()
            && !Path::new(&format!("/proc/{}", notice.process)).exists();
        dead || notice.until < now
    }
}

/// A notice that cannot be read is none.
async fn read(archive: &dyn Storage) -> Result<Option<Notice>, ArchiveError> {
    match archive.get(layout::INDEX_LEASE, BYTES).await {
        Ok(object) => Ok(serde_json::from_slice(&object.bytes).ok()),
        Err(error) if matches!(error.kind(), StorageErrorKind::NotFound | StorageErrorKind::TooLarge) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
