//! The segments of an archive, opened once and kept.
//!
//! Those of a folder are mapped where they are, those of a bucket from a copy in the cache.

use super::places::Places;
use super::vectors::Vectors;
use crate::archive::{ArchiveError, TABLE_BYTES};
use bytes::Bytes;
use captionfleet_index::Segment;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{Storage, StorageErrorKind};
use captionfleet_proto::uri::{ArchiveUri, Location};
use captionfleet_worker::model_choice::cache_folder;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The space of segments of an archive in which nothing is embedded: their captions can be searched by words. They serve until
/// segments of a real space have all their parts.
pub const WORDS_ALONE: &str = "";

/// A segment and where it lies.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its key in the archive.
    pub key: String,
    /// What it holds.
    pub segment: Arc<Segment>,
}

impl Stored {
    /// Whether it was written for words alone.
    pub fn is_for_words(&self) -> bool {
        self.segment.space() == WORDS_ALONE
    }
}

/// Opens the segments of one archive.
#[derive(Debug)]
pub struct Shelf {
    archive: Arc<dyn Storage>,
    place: Place,
    open: Mutex<HashMap<String, Arc<Segment>>>,
    places: Places,
    vectors: Vectors,
}

/// Where segments are files.
#[derive(Debug)]
enum Place {
    /// The archive's own folder.
    Archive(PathBuf),
    /// A folder for copies of this archive's segments.
    Cache(PathBuf),
    /// Nowhere: they are held in memory.
    Memory,
}

impl Shelf {
    /// Opens nothing yet.
    pub fn new(archive: Arc<dyn Storage>, uri: &ArchiveUri) -> Self {
        let place = match (uri.location(), cache_folder()) {
            (Location::File(folder), _) => Place::Archive(folder),
            (_, Ok(cache)) => {
                let name = hex::encode(&Sha256::digest(uri.as_str().as_bytes())[..8]);
                Place::Cache(cache.join("index").join(name))
            }
            (_, Err(_)) => Place::Memory,
        };
        Self {
            archive,
            place,
            open: Mutex::default(),
            places: Places::default(),
            vectors: Vectors::default(),
        }
    }

    /// The archive.
    pub fn archive(&self) -> &dyn Storage {
        &*self.archive
    }

    /// Where the embeddings of its parts lie, as far as that was looked for.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Embeddings that were read last.
    pub(super) fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// All segments that can be read, in the order of their keys; also the keys of damaged ones.
    pub async fn segments(&self) -> Result<(Vec<Stored>, Vec<String>), ArchiveError> {
        let mut keys = Vec::new();
        {
            let mut listing = self.archive.list(layout::INDEX_PREFIX);
            while let Some(object) = listing.try_next().await? {
                keys.extend(Some(object.key).filter(|key| layout::is_index_segment(key)));
            }
        }
        keys.sort();
        self.forget_others(&keys);
        let (mut segments, mut damaged) = (Vec::new(), Vec::new());
        for key in keys {
            match self.segment(&key).await? {
                Opened::Whole(segment) => segments.push(Stored { key, segment }),
                // Merged into another one meanwhile: its parts count as not indexed until the next look.
                Opened::Gone => {}
                Opened::Damaged => damaged.push(key),
            }
        }
        Ok((segments, damaged))
    }

    async fn segment(&self, key: &str) -> Result<Opened, ArchiveError> {
        if let Some(segment) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(Opened::Whole(segment.clone()));
        }
        let bytes = match &self.place {
            Place::Archive(folder) => map(&folder.join(key)),
            Place::Cache(folder) => self.cached(&folder.join(file_name(key)), key).await?,
            Place::Memory => self.fetched(key).await?,
        };
        let Some(bytes) = bytes else { return Ok(Opened::Gone) };
        match tokio::task::spawn_blocking(move || Segment::open(bytes)).await {
            Ok(Ok(segment)) => {
                let segment = Arc::new(segment);
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.insert(key.to_owned(), segment.clone());
                Ok(Opened::Whole(segment))
            }
            Ok(Err(error)) => {
                tracing::warn!(key, %error, "a segment of the index is left out");
                if let Place::Cache(folder) = &self.place {
                    drop(std::fs::remove_file(folder.join(file_name(key))));
                }
                Ok(Opened::Damaged)
            }
            Err(_) => Err(ArchiveError::Interrupted { key: key.to_owned() }),
        }
    }

    /// Keeps a copy; without room for one the segment is held in memory.
    async fn cached(&self, path: &Path, key: &str) -> Result<Option<Bytes>, ArchiveError> {
        if let Some(bytes) = map(path) {
            return Ok(Some(bytes));
        }
        let Some(bytes) = self.fetched(key).await? else { return Ok(None) };
        match keep(path, &bytes) {
            Ok(()) => Ok(map(path).or(Some(bytes))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a segment of the index is held in memory");
                Ok(Some(bytes))
            }
        }
    }

    async fn fetched(&self, key: &str) -> Result<Option<Bytes>, ArchiveError> {
        match self.archive.get(key, TABLE_BYTES).await {
            Ok(object) => Ok(Some(object.bytes)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes segments that the archive has no more, and removes their copies.
    fn forget_others(&self, keys: &[String]) {
        let there: HashSet<&String> = keys.iter().collect();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| there.contains(key));
        if let Place::Cache(folder) = &self.place {
            let wanted: HashSet<String> = keys.iter().map(|key| file_name(key)).collect();
            for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if file
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.ends_with(".segment") && !wanted.contains(name))
                {
                    drop(std::fs::remove_file(file.path()));
                }
            }
        }
    }
}

enum Opened {
    Whole(Arc<Segment>),
    Gone,
    Damaged,
}

fn file_name(key: &str) -> String {
    key.trim_start_matches(layout::INDEX_PREFIX).replace('/', "-")
}

/// The file, mapped into memory; `None` if there is no such file.
fn map(path: &Path) -> Option<Bytes> {
    let file = File::open(path).ok()?;
    // SAFETY: segments appear whole under their name and are never written to afterwards, only removed, which leaves a
    // mapping as it is.
    let mapped = unsafe { memmap2::Mmap::map(&file) }.ok()?;
    Some(Bytes::from_owner(mapped))
}

fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
