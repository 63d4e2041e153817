//! The adapters that jobs ask for: fetched, checked and opened once, the most recently used ones kept.

use std::sync::{Arc, Mutex, PoisonError};

use captionfleet_model::Adapter;
use captionfleet_model::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use captionfleet_proto::job::JobAdapter;
use captionfleet_proto::storage::Stores;

use super::Failure;
use super::item_failure::ItemFailure;
use crate::engine::EngineHandle;
use crate::telemetry::events;

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
    /// A row's failure if it cannot be used, the job's if it cannot be read now.
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
    let refused = |message: String| ItemFailure::row(REFUSED, format!("adapter {}: {message}", wanted.uri));
    let mut contents = Vec::with_capacity(2);
    for uri in JobAdapter::file_uris(&wanted.uri) {
        match stores.read_item(&uri, MOST_BYTES).await {
            Ok(object) => contents.push(object.bytes),
            Err(source) if source.is_transient() => {
                return Err(ItemFailure::Job(Failure::Source { item: uri.to_string(), source }));
            }
            Err(source) => return Err(refused(events::chain(&source))),
        }
    }
    let found = JobAdapter::of(wanted.uri.clone(), contents.iter().map(|bytes| &bytes[..]));
    if found.sha256 != wanted.sha256 {
        return Err(refused(format!(
            "its files have the digest {}, the job wants {}: it was changed after the run was planned",
            found.sha256, wanted.sha256
        )));
    }
    let engine = engine.clone();
    let open = move || -> Result<Adapter, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no place for a copy: {error}"))?;
        let names: &[&str] =
            if contents.len() == 1 { &["adapter.pth"] } else { &[ADAPTER_CONFIG, ADAPTER_WEIGHTS] };
        for (name, bytes) in names.iter().zip(&contents) {
            std::fs::write(folder.path().join(name), bytes)
                .map_err(|error| format!("no place for a copy: {error}"))?;
        }
        drop(contents);
        let path = if let [only] = names { folder.path().join(only) } else { folder.path().to_owned() };
        engine.open_adapter(&path).map_err(|error| events::chain(&error))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|error| ItemFailure::Job(Failure::Panicked(error.to_string())))?.map_err(refused)
}
