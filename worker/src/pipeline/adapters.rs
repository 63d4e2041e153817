//! The adapters that jobs ask for: fetched, checked and opened once, the most recently used ones kept.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use captionfleet_model::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use captionfleet_model::checkpoint::CheckpointError;
use captionfleet_model::{Adapter, AdapterError};
use captionfleet_proto::chain;
use captionfleet_proto::job::JobAdapter;
use captionfleet_proto::storage::{StorageError, StorageErrorKind, Stores};
use captionfleet_proto::uri::ItemUri;

use super::Failure;
use super::item_failure::ItemFailure;
use crate::engine::EngineHandle;

/// Code of rows whose adapter cannot be used.
const REFUSED: &str = "adapter_refused";
/// Largest file of an adapter: a published stage file has its optimizer's state beside the weights.
const MOST_BYTES: u64 = 4 << 30;

/// Adapters in memory, up to a number of bytes; those in use live on beyond it.
pub(super) struct Adapters {
    most_bytes: u64,
    /// The most recently used one last.
    kept: Mutex<Vec<Arc<Adapter>>>,
    /// Held while one is fetched, so that a run's first jobs fetch it once.
    fetching: tokio::sync::Mutex<()>,
}

impl Adapters {
    pub(super) fn new(most_bytes: u64) -> Self {
        Self { most_bytes, kept: Mutex::default(), fetching: tokio::sync::Mutex::default() }
    }

    /// The adapter, from memory or from where it is.
    ///
    /// # Errors
    /// A row's failure if it is not there or cannot be used, the job's if this machine or the store is at fault.
    pub(super) async fn get(
        &self,
        wanted: &JobAdapter,
        stores: &Stores,
        engine: &EngineHandle,
    ) -> Result<Arc<Adapter>, ItemFailure> {
        if let Some(adapter) = self.find(&wanted.sha256) {
            return Ok(adapter);
        }
        let _fetching = self.fetching.lock().await;
        if let Some(adapter) = self.find(&wanted.sha256) {
            return Ok(adapter);
        }
        let adapter = Arc::new(fetch(wanted, stores, engine).await?);
        self.keep(Arc::clone(&adapter));
        Ok(adapter)
    }

    fn find(&self, digest: &str) -> Option<Arc<Adapter>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|adapter| adapter.digest() == digest)?;
        let adapter = kept.remove(at);
        kept.push(Arc::clone(&adapter));
        Some(adapter)
    }

    fn keep(&self, adapter: Arc<Adapter>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(adapter);
        let mut bytes: u64 = kept.iter().map(|adapter| adapter.bytes()).sum();
        while bytes > self.most_bytes && kept.len() > 1 {
            bytes -= kept.remove(0).bytes();
        }
    }
}

async fn fetch(wanted: &JobAdapter, stores: &Stores, engine: &EngineHandle) -> Result<Adapter, ItemFailure> {
    let mut contents = Vec::with_capacity(2);
    for uri in JobAdapter::file_uris(&wanted.uri) {
        let read = stores.read_item(&uri, MOST_BYTES).await;
        contents.push(read.map_err(|error| unreadable(&wanted.uri, &uri, error))?.bytes);
    }
    let found = JobAdapter::of(wanted.uri.clone(), contents.iter().map(|bytes| &bytes[..]));
    if found.sha256 != wanted.sha256 {
        let problem = format!(
            "its files have the digest {}, the job wants {}: it was changed after the run was planned",
            found.sha256, wanted.sha256
        );
        return Err(row(REFUSED, &wanted.uri, &problem));
    }
    let (engine, uri) = (engine.clone(), wanted.uri.clone());
    let open = move || {
        let folder = tempfile::tempdir().map_err(|error| no_place(&uri, error))?;
        let path = copy(folder.path(), &contents).map_err(|error| no_place(&uri, error))?;
        drop(contents);
        engine.open_adapter(&path).map_err(|error| unopened(&uri, error))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or_else(|error| Err(ItemFailure::Job(Failure::Panicked(error.to_string()))))
}

/// Writes an adapter's files into `folder`, and returns what is to be opened.
fn copy(folder: &Path, contents: &[Bytes]) -> std::io::Result<PathBuf> {
    if let [only] = contents {
        let path = folder.join("adapter.pth");
        std::fs::write(&path, only)?;
        return Ok(path);
    }
    for (name, bytes) in [ADAPTER_CONFIG, ADAPTER_WEIGHTS].iter().zip(contents) {
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(folder.to_owned())
}

fn row(code: &'static str, adapter: &ItemUri, problem: &str) -> ItemFailure {
    ItemFailure::row(code, format!("adapter {adapter}: {problem}"))
}

/// What it means that a file cannot be read: it concerns a whole run, so that nothing becomes a row that people can mend while
/// the job rests, and the rest is told as it is of pictures. Those codes are tried again by the next run.
fn unreadable(adapter: &ItemUri, file: &ItemUri, source: StorageError) -> ItemFailure {
    let code = match source.kind() {
        StorageErrorKind::NotFound => "not_found",
        StorageErrorKind::PermissionDenied => "permission_denied",
        StorageErrorKind::InvalidUri | StorageErrorKind::Refused => "source_refused",
        StorageErrorKind::TooLarge | StorageErrorKind::Damaged => REFUSED,
        StorageErrorKind::Unauthenticated
        | StorageErrorKind::NoSuchBucket
        | StorageErrorKind::WrongRegion
        | StorageErrorKind::Throttled
        | StorageErrorKind::Unavailable
        | StorageErrorKind::Timeout
        | StorageErrorKind::NoSpace
        | StorageErrorKind::Other => {
            return ItemFailure::Job(Failure::Source { item: file.to_string(), source });
        }
    };
    row(code, adapter, &chain(&source))
}

/// This machine cannot keep the files for as long as they are opened: another one may, and this one later.
fn no_place(adapter: &ItemUri, error: std::io::Error) -> ItemFailure {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageErrorKind::NoSpace,
        _ => StorageErrorKind::Unavailable,
    };
    let problem = format!(
        "no place for a copy in {}: free some space there, or choose another folder with TMPDIR",
        std::env::temp_dir().display()
    );
    let source = StorageError::new(kind, "copying", adapter.as_str(), problem).caused_by(error);
    ItemFailure::Job(Failure::Source { item: adapter.to_string(), source })
}

/// What it means that the copy cannot be opened: the machine's and the device's faults are not the adapter's.
fn unopened(adapter: &ItemUri, error: AdapterError) -> ItemFailure {
    match error {
        AdapterError::Read { source, .. } | AdapterError::Weights(CheckpointError::Io { source, .. })
            // A file that ends too early was written whole: that is how it came.
            if source.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            no_place(adapter, source)
        }
        AdapterError::Backend(error) => ItemFailure::Job(Failure::Engine(error.into())),
        error => row(REFUSED, adapter, &chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::EngineError;

    fn uri() -> ItemUri {
        ItemUri::parse("s3://bucket/adapter").unwrap()
    }

    fn code(failure: &ItemFailure) -> &'static str {
        match failure {
            ItemFailure::Row { code, .. } => code,
            ItemFailure::Job(_) => "job",
            ItemFailure::Unclear(_) => "unclear",
        }
    }

    #[test]
    fn what_keeps_a_file_from_being_read_is_told_from_what_is_wrong_with_it() {
        for (kind, expected) in [
            (StorageErrorKind::NotFound, "not_found"),
            (StorageErrorKind::PermissionDenied, "permission_denied"),
            (StorageErrorKind::Refused, "source_refused"),
            (StorageErrorKind::TooLarge, REFUSED),
            (StorageErrorKind::Damaged, REFUSED),
            (StorageErrorKind::Unauthenticated, "job"),
            (StorageErrorKind::NoSuchBucket, "job"),
            (StorageErrorKind::Timeout, "job"),
            (StorageErrorKind::Other, "job"),
        ] {
            let error = StorageError::new(kind, "reading", "s3://bucket/adapter", "no");
            assert_eq!(code(&unreadable(&uri(), &uri(), error)), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_machine_without_room_fails_the_job_and_no_row() {
        let error = copy(Path::new("/nowhere/at all"), &[Bytes::from_static(b"x")]).unwrap_err();
        assert!(matches!(no_place(&uri(), error), ItemFailure::Job(Failure::Source { .. })));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let ItemFailure::Job(Failure::Source { source, .. }) = no_place(&uri(), full) else {
            panic!("a row");
        };
        assert_eq!(source.kind(), StorageErrorKind::NoSpace);
    }

    #[test]
    fn the_devices_faults_are_not_the_adapters() {
        let device = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned());
        let failure = unopened(&uri(), AdapterError::Backend(device));
        assert!(
            matches!(failure, ItemFailure::Job(Failure::Engine(EngineError::OutOfMemory(_)))),
            "{failure:?}"
        );
        let io = |kind: std::io::ErrorKind| {
            AdapterError::Weights(CheckpointError::Io {
                operation: "read",
                file: "adapter.pth".to_owned(),
                source: kind.into(),
            })
        };
        assert_eq!(code(&unopened(&uri(), io(std::io::ErrorKind::PermissionDenied))), "job");
        assert_eq!(code(&unopened(&uri(), io(std::io::ErrorKind::UnexpectedEof))), REFUSED);
        assert_eq!(code(&unopened(&uri(), AdapterError::Empty)), REFUSED);
    }
}
