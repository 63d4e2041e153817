//! The adapter of a run: named by its content before anything is planned, and copied to where a fleet can read it.

use crate::staging::address;
use anyhow::Context as _;
use captionfleet_proto::job::JobAdapter;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};

/// Largest file of an adapter.
const MOST_BYTES: u64 = 4 << 30;

/// The adapter at `uri`, with its digest.
pub async fn resolve(stores: &Stores, uri: &ItemUri) -> anyhow::Result<JobAdapter> {
    let mut contents = Vec::with_capacity(2);
    for file in JobAdapter::file_uris(uri) {
        let object = stores.read_item(&file, MOST_BYTES).await.with_context(|| {
            format!(
                "read the adapter {uri} (a folder with adapter_config.json and adapter_model.safetensors, or one .pth \
                 file)"
            )
        })?;
        contents.push(object.bytes);
    }
    Ok(JobAdapter::of(uri.clone(), contents.iter().map(|bytes| &bytes[..])))
}

/// The same adapter in the archive, if it lies on this machine now.
pub async fn stage(
    archive: &dyn Storage,
    at: &ArchiveUri,
    adapter: &JobAdapter,
) -> anyhow::Result<JobAdapter> {
    let Location::File(path) = adapter.uri.location() else { return Ok(adapter.clone()) };
    let names = JobAdapter::files(&adapter.uri);
    let pairs = if names.is_empty() {
        vec![(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(), path)]
    } else {
        names.iter().map(|name| ((*name).to_owned(), path.join(name))).collect()
    };
    for (name, path) in &pairs {
        let bytes = tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?;
        let key = layout::adapter_file(&adapter.sha256, name);
        let put = archive.put(&key, bytes.into(), PutMode::Overwrite).await;
        put.with_context(|| format!("copy {} into the archive", path.display()))?;
    }
    let folder = layout::adapter_folder(&adapter.sha256);
    let place = match (names, pairs.first()) {
        ([], Some((name, _))) => format!("{folder}/{name}"),
        _ => folder,
    };
    Ok(JobAdapter { uri: address(at, &place), sha256: adapter.sha256.clone() })
}
