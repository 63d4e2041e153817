//! Videos as local files: objects of buckets are copied once, piece by piece, and kept while there is room.
//!
//! A film has many segments, and a decoder wants to jump about in it: one copy serves all segments that this worker
//! gets. Copies that nobody uses go first when room is needed, the oldest before the others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captionfleet_proto::storage::{
    CopyError, ObjectMeta, Storage, StorageError, StorageErrorKind, Stores, copy_to_file, etag_of_file,
};
use captionfleet_proto::uri::{ItemUri, Location};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::video::Film;

/// How long a film waits before it looks for room again.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(500);
const READING: &str = "reading";

/// Where copies are kept, and how much of them.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// A folder that exists; the system's temporary one if not given.
    pub folder: Option<PathBuf>,
    /// Most bytes of copies at a time. A larger video is not taken.
    pub max_bytes: u64,
}

impl Default for SpoolOptions {
    /// 20 GiB in the temporary folder.
    fn default() -> Self {
        Self { folder: None, max_bytes: 20 << 30 }
    }
}

/// The copies of one worker.
pub(super) struct Spool {
    options: SpoolOptions,
    folder: OnceCell<TempDir>,
    /// Least recently asked for first.
    films: Mutex<Vec<Entry>>,
}

struct Entry {
    uri: ItemUri,
    etag: Option<String>,
    /// Bytes on this disk; none for files that were here before.
    bytes: u64,
    film: Arc<Local>,
}

impl Entry {
    /// A copy that nobody uses.
    fn is_idle(&self) -> bool {
        self.bytes > 0 && Arc::strong_count(&self.film) == 1
    }
}

/// A video that ffmpeg can open.
pub(super) struct Local {
    pub(super) path: PathBuf,
    pub(super) etag: Option<String>,
    pub(super) size: u64,
    /// Of a copy; a file that was here already is not read for it.
    copied: OnceCell<String>,
    is_copy: bool,
    /// What its header says; asked once.
    pub(super) film: OnceCell<Film>,
}

impl Local {
    /// SHA-256 of what was copied.
    pub(super) fn sha256(&self) -> Option<&String> {
        self.copied.get()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.is_copy {
            // The folder goes with the worker; a copy that stays until then is only in the way.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Spool {
    pub(super) fn new(options: SpoolOptions) -> Self {
        Self { options, folder: OnceCell::new(), films: Mutex::default() }
    }

    /// The video at `uri` as a local file, copied if need be.
    pub(super) async fn open(&self, stores: &Stores, uri: &ItemUri) -> Result<Arc<Local>, StorageError> {
        let Location::S3 { bucket, key } = uri.location() else {
            return self.open_file(stores, uri).await;
        };
        let store = stores.bucket(&bucket).await?;
        let meta = store.head(&key).await?;
        if meta.size > self.options.max_bytes {
            let problem = format!("has {} bytes, at most {} are spooled", meta.size, self.options.max_bytes);
            return Err(StorageError::new(StorageErrorKind::TooLarge, READING, uri.as_str(), problem));
        }
        let path = self.folder(uri).await?.path().join(name(uri, meta.etag.as_ref()));
        let film = loop {
            if let Some(film) = self.find_or_add(uri, meta.etag.as_ref(), meta.size, &path) {
                break film;
            }
            tokio::time::sleep(NO_ROOM_PAUSE).await;
        };
        let copied = film.copied.get_or_try_init(|| whole_copy(&*store, &key, uri, &film)).await;
        if let Err(error) = copied {
            if error.kind() == StorageErrorKind::NoSpace {
                self.lock().retain(|entry| !entry.is_idle());
            }
            return Err(error);
        }
        Ok(film)
    }

    async fn open_file(&self, stores: &Stores, uri: &ItemUri) -> Result<Arc<Local>, StorageError> {
        let path = stores.local_path(uri).await?.ok_or_else(|| {
            StorageError::new(StorageErrorKind::InvalidUri, READING, uri.as_str(), "is not a local file")
        })?;
        let metadata = tokio::fs::metadata(&path).await.map_err(|error| failed(uri, error))?;
        let etag = Some(etag_of_file(&metadata));
        if let Some(film) = self.find(uri, etag.as_ref()) {
            return Ok(film);
        }
        let film = Arc::new(Local {
            path,
            etag: etag.clone(),
            size: metadata.len(),
            copied: OnceCell::new(),
            is_copy: false,
            film: OnceCell::new(),
        });
        self.lock().push(Entry { uri: uri.clone(), etag, bytes: 0, film: Arc::clone(&film) });
        Ok(film)
    }

    fn find(&self, uri: &ItemUri, etag: Option<&String>) -> Option<Arc<Local>> {
        let mut films = self.lock();
        // Without a version nobody knows whether it is still the same.
        let at = films
            .iter()
            .position(|entry| entry.uri == *uri && etag.is_some() && entry.etag.as_ref() == etag)?;
        let entry = films.remove(at);
        let film = Arc::clone(&entry.film);
        films.push(entry);
        Some(film)
    }

    /// The film's entry, a new one if there is room for its bytes; `None` if there is none yet.
    fn find_or_add(
        &self,
        uri: &ItemUri,
        etag: Option<&String>,
        bytes: u64,
        path: &std::path::Path,
    ) -> Option<Arc<Local>> {
        if let Some(film) = self.find(uri, etag) {
            return Some(film);
        }
        let mut films = self.lock();
        while films.iter().map(|entry| entry.bytes).sum::<u64>() + bytes > self.options.max_bytes {
            let idle = films.iter().position(Entry::is_idle)?;
            films.remove(idle);
        }
        let film = Arc::new(Local {
            path: path.to_owned(),
            etag: etag.cloned(),
            size: bytes,
            copied: OnceCell::new(),
            is_copy: true,
            film: OnceCell::new(),
        });
        films.push(Entry { uri: uri.clone(), etag: etag.cloned(), bytes, film: Arc::clone(&film) });
        Some(film)
    }

    async fn folder(&self, uri: &ItemUri) -> Result<&TempDir, StorageError> {
        let make = async {
            let mut builder = tempfile::Builder::new();
            let builder = builder.prefix("captionfleet-spool-");
            match &self.options.folder {
                Some(folder) => builder.tempdir_in(folder),
                None => builder.tempdir(),
            }
        };
        self.folder.get_or_try_init(|| make).await.map_err(|error| failed(uri, error))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.films.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file name that no two versions of an object share.
fn name(uri: &ItemUri, etag: Option<&String>) -> String {
    let mut digest = Sha256::new();
    digest.update(uri.as_str());
    digest.update([0]);
    digest.update(etag.map_or("", String::as_str));
    hex::encode(&digest.finalize()[..16])
}

/// Copies an object and returns its digest; of a copy that fails nothing stays, because half a film only takes room.
async fn whole_copy(
    store: &dyn Storage,
    key: &str,
    uri: &ItemUri,
    film: &Local,
) -> Result<String, StorageError> {
    let copied = copy(store, key, uri, film).await;
    if copied.is_err() {
        let _ = tokio::fs::remove_file(&film.path).await;
    }
    copied
}

async fn copy(store: &dyn Storage, key: &str, uri: &ItemUri, film: &Local) -> Result<String, StorageError> {
    let file = std::fs::File::create(&film.path).map_err(|error| failed(uri, error))?;
    let meta = ObjectMeta { key: key.to_owned(), size: film.size, etag: film.etag.clone(), modified: None };
    copy_to_file(store, &meta, file).await.map_err(|error| match error {
        CopyError::Read(error) => error,
        CopyError::Write(error) => failed(uri, error),
    })
}

fn failed(uri: &ItemUri, error: std::io::Error) -> StorageError {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageErrorKind::NoSpace,
        _ => StorageErrorKind::Unavailable,
    };
    let problem = match kind {
        StorageErrorKind::NoSpace => {
            "the disk for copies of videos is full: free some space, or choose another with --spool-dir"
        }
        _ => "it cannot be spooled here",
    };
    StorageError::new(kind, READING, uri.as_str(), problem).caused_by(error)
}
