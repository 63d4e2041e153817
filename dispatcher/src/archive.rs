//! Reading what an archive holds: runs, their items, their parts.

use captionfleet_proto::codec::{self, DecodeError};
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::manifest::{self, PlannedItem, RunManifest};
use captionfleet_proto::rows::{self, EmbeddingShape, Projection, Row, RowKey, TableError, USUAL_SHAPE};
use captionfleet_proto::storage::{Storage, StorageError, StorageErrorKind};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many objects are read at once.
pub const READS_AT_ONCE: usize = 16;
/// Most bytes of a manifest.
const MANIFEST_BYTES: u64 = 1024 * 1024;
/// Most bytes of a part or of one file of an items table.
pub const TABLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// An object of the archive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be reached, or its bytes are damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It is missing where it must be, too large for what its name says, or damaged.
    #[error("{key}: this object of the archive cannot be used; remove what it belongs to, or put it back")]
    Object {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: StorageError,
    },
    /// It is not what its name says.
    #[error("{key}: this object of the archive is damaged or was written by something else")]
    Table {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: TableError,
    },
    /// It is not what its name says.
    #[error("{key}: this manifest is damaged or was written by something else")]
    Manifest {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The program itself failed.
    #[error("{key}: reading was interrupted; please report this")]
    Interrupted {
        /// The object's key.
        key: String,
    },
}

impl ArchiveError {
    /// Whether the object itself is bad, rather than the way to it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => is_bad(error),
            Self::Object { .. } | Self::Table { .. } | Self::Manifest { .. } => true,
            Self::Interrupted { .. } => false,
        }
    }

    /// The run whose manifest is bad, if that is what is wrong.
    pub fn run_of_manifest(&self) -> Option<RunId> {
        match self {
            Self::Manifest { key, .. } | Self::Object { key, .. } => layout::run_of_manifest(key),
            _ => None,
        }
    }
}

/// Whether it lies in the object that it cannot be read.
fn is_bad(error: &StorageError) -> bool {
    matches!(error.kind(), StorageErrorKind::Damaged | StorageErrorKind::TooLarge)
}

/// The parts of each run, by key.
pub type Parts = BTreeMap<RunId, Vec<(JobId, String)>>;

/// Lists the parts of one run or of all.
pub async fn parts(archive: &dyn Storage, run: Option<&RunId>) -> Result<Parts, ArchiveError> {
    let prefix = layout::parts_prefix(run);
    let mut listing = archive.list(&prefix);
    let mut parts = Parts::new();
    while let Some(object) = listing.try_next().await? {
        if let Some((run, job)) = layout::job_of_part(&object.key) {
            parts.entry(run).or_default().push((job, object.key));
        }
    }
    for keys in parts.values_mut() {
        keys.sort();
    }
    Ok(parts)
}

/// The manifests of all runs, oldest first, and what could not be read.
pub async fn manifests(archive: &dyn Storage) -> Result<(Vec<RunManifest>, Vec<ArchiveError>), ArchiveError> {
    let mut runs = Vec::new();
    {
        let mut listing = archive.list(layout::RUNS_PREFIX);
        while let Some(object) = listing.try_next().await? {
            runs.extend(layout::run_of_manifest(&object.key));
        }
    }
    let reads = runs.iter().map(|run| manifest(archive, run));
    let read: Vec<_> = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).collect().await;
    let (mut manifests, mut damaged) = (Vec::new(), Vec::new());
    for outcome in read {
        match outcome {
            Ok(manifest) => manifests.push(manifest),
            Err(error) if error.is_damage() => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    manifests.sort_by(|one, other| (one.created_at, &one.run).cmp(&(other.created_at, &other.run)));
    Ok((manifests, damaged))
}

/// The manifest of one run.
pub async fn manifest(archive: &dyn Storage, run: &RunId) -> Result<RunManifest, ArchiveError> {
    let key = layout::run_manifest(run);
    let object = match archive.get(&key, MANIFEST_BYTES).await {
        Err(source) if is_bad(&source) => return Err(ArchiveError::Object { key, source }),
        read => read?,
    };
    codec::decode_manifest(&object.bytes).map_err(|source| ArchiveError::Manifest { key, source })
}

/// The items of a run, in the order of their ordinals.
pub async fn items(archive: &dyn Storage, manifest: &RunManifest) -> Result<Vec<PlannedItem>, ArchiveError> {
    let reads = (0..manifest.item_files).map(|number| async move {
        let key = layout::run_items(&manifest.run, number);
        let object = match archive.get(&key, TABLE_BYTES).await {
            // The manifest, which is written last, says that it is there.
            Err(source) if is_bad(&source) || source.kind() == StorageErrorKind::NotFound => {
                return Err(ArchiveError::Object { key, source });
            }
            read => read?,
        };
        decoded(key, move || manifest::read_items(object.bytes)).await
    });
    let files: Vec<Vec<PlannedItem>> = futures::stream::iter(reads).buffered(4).try_collect().await?;
    Ok(files.into_iter().flatten().collect())
}

/// What identifies the rows of one part.
pub async fn keys(archive: &dyn Storage, key: String) -> Result<Vec<RowKey>, ArchiveError> {
    let object = archive.get(&key, TABLE_BYTES).await?;
    decoded(key, move || rows::read_keys(object.bytes)).await
}

/// The same of the first parts of a run, at most so many; those that are damaged are left out.
pub async fn first_keys<'a>(
    archive: &'a dyn Storage,
    run: &RunId,
    most: usize,
) -> Result<impl Stream<Item = Result<Vec<RowKey>, ArchiveError>> + use<'a>, ArchiveError> {
    let parts = parts(archive, Some(run)).await?.remove(run).unwrap_or_default();
    let reads = parts.into_iter().take(most).map(move |(_, key)| keys(archive, key));
    let reads = futures::stream::iter(reads).buffered(READS_AT_ONCE);
    Ok(reads.filter(|read| {
        let is_damaged = read.as_ref().is_err_and(ArchiveError::is_damage);
        std::future::ready(!is_damaged)
    }))
}

/// The rows of one part, without their embeddings.
pub async fn rows(archive: &dyn Storage, key: String) -> Result<Vec<Row>, ArchiveError> {
    let object = archive.get(&key, TABLE_BYTES).await?;
    decoded(key, move || rows::read_part(object.bytes, Projection::WithoutEmbedding)).await
}

/// The shape of an archive's embeddings, as far as one of its parts tells: parts are to be alike, those without embeddings, too.
pub async fn shape(archive: &dyn Storage) -> EmbeddingShape {
    let earlier = async {
        let parts = parts(archive, None).await.ok()?;
        let (_, key) = parts.into_values().flatten().next()?;
        let object = archive.get(&key, TABLE_BYTES).await.ok()?;
        rows::read_embeddings(object.bytes).ok()?.shape
    };
    earlier.await.unwrap_or(USUAL_SHAPE)
}

/// Decodes a table away from the threads that wait for the network.
async fn decoded<T: Send + 'static>(
    key: String,
    decode: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, ArchiveError> {
    match tokio::task::spawn_blocking(decode).await {
        Ok(decoded) => decoded.map_err(|source| ArchiveError::Table { key, source }),
        Err(_) => Err(ArchiveError::Interrupted { key }),
    }
}

/// Whether there is an object of this name.
pub async fn is_there(archive: &dyn Storage, key: &str) -> Result<bool, StorageError> {
    match archive.head(key).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens an archive that must be usable; it need not hold anything yet.
pub async fn open(
    stores: &captionfleet_proto::storage::Stores,
    uri: &captionfleet_proto::uri::ArchiveUri,
) -> Result<Arc<dyn Storage>, StorageError> {
    let archive = stores.archive(uri).await?;
    archive.check().await?;
    Ok(archive)
}
