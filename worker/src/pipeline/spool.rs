//! Videos as local files: objects of buckets are copied once, piece by piece, and kept while there is room.
//!
//! A film has many segments, and a decoder wants to jump about in it: one copy serves all segments that this worker
//! gets. Copies that nobody uses go first when room is needed, the oldest before the others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use captionfleet_proto::storage::{
    CopyError, ObjectMeta, Storage, StorageError, StorageErrorKind, Stores, copy_to_file, etag_of_file,
};
use captionfleet_proto::uri::{ItemUri, Location};
use tokio::sync::OnceCell;

use super::spool_folder::{self, SpoolFolder};
use crate::video::Film;

/// How long a film waits before it looks for room again.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(500);
const READING: &str = "reading";
/// Files of this machine that are remembered while nobody uses them, for what their headers say: a film's segments come one soon
/// after the other.
const MOST_IDLE_FILES: usize = 32;

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
    folder: OnceCell<SpoolFolder>,
    films: Mutex<Films>,
    /// Bytes of the last film for which the disk had no room.
    lacking: AtomicU64,
}

/// The videos that are known, least recently asked for first.
#[derive(Default)]
struct Films {
    entries: Vec<Entry>,
    /// How many copies there have been: each has a file of its own, so that none loses it when another one goes.
    copies: u64,
}

struct Entry {
    uri: ItemUri,
    film: Arc<Local>,
}

impl Entry {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.film) == 1
    }
}

impl Films {
    fn find(&mut self, uri: &ItemUri, etag: Option<&String>) -> Option<Arc<Local>> {
        // Without a version nobody knows whether it is still the same.
        let at = self
            .entries
            .iter()
            .position(|entry| entry.uri == *uri && etag.is_some() && entry.film.etag.as_ref() == etag)?;
        let entry = self.entries.remove(at);
        let film = Arc::clone(&entry.film);
        self.entries.push(entry);
        Some(film)
    }

    /// Lets copies go that nobody uses until `bytes` more are at most `most`; false if they are not even then.
    fn make_room(&mut self, bytes: u64, most: u64) -> bool {
        while self.copied_bytes() + bytes > most {
            let idle = self.entries.iter().position(|entry| entry.film.is_copy && entry.is_idle());
            let Some(idle) = idle else { return false };
            self.entries.remove(idle);
        }
        true
    }

    fn copied_bytes(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.film.is_copy).map(|entry| entry.film.size).sum()
    }

    /// Lets go of all but the files that were asked for last, and those in use.
    fn forget_files(&mut self) {
        let is_idle_file = |entry: &Entry| !entry.film.is_copy && entry.is_idle();
        let idle = self.entries.iter().filter(|entry| is_idle_file(entry)).count();
        let mut too_many = idle.saturating_sub(MOST_IDLE_FILES);
        self.entries.retain(|entry| {
            let goes = too_many > 0 && is_idle_file(entry);
            too_many -= usize::from(goes);
            !goes
        });
    }

    fn forget_idle_copies(&mut self) {
        self.entries.retain(|entry| !(entry.film.is_copy && entry.is_idle()));
    }

    fn add(&mut self, uri: &ItemUri, film: Local) -> Arc<Local> {
        let film = Arc::new(film);
        self.entries.push(Entry { uri: uri.clone(), film: Arc::clone(&film) });
        film
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
    fn new(path: PathBuf, etag: Option<String>, size: u64, is_copy: bool) -> Self {
        Self { path, etag, size, copied: OnceCell::new(), is_copy, film: OnceCell::new() }
    }

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
    /// Has no copy yet. Those of workers that were killed go now: they may be what fills the disk.
    pub(super) fn new(options: SpoolOptions) -> Self {
        SpoolFolder::tidy(options.folder.as_deref());
        Self { options, folder: OnceCell::new(), films: Mutex::default(), lacking: AtomicU64::new(0) }
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
        let film = self.copied(&*store, uri, &meta).await;
        if film.as_ref().is_err_and(|error| error.kind() == StorageErrorKind::NoSpace) {
            self.lock().forget_idle_copies();
            self.lacks(meta.size);
        }
        film
    }

    /// The copy of an object, of which there is one at a time.
    async fn copied(
        &self,
        store: &dyn Storage,
        uri: &ItemUri,
        meta: &ObjectMeta,
    ) -> Result<Arc<Local>, StorageError> {
        let folder = self.folder(uri).await?.path();
        let film = loop {
            if let Some(film) = self.find_or_add(uri, meta.etag.as_ref(), meta.size, folder) {
                break film;
            }
            tokio::time::sleep(NO_ROOM_PAUSE).await;
        };
        film.copied.get_or_try_init(|| whole_copy(store, &meta.key, uri, &film)).await?;
        Ok(film)
    }

    /// The disk had no room for a film of so many bytes.
    pub(super) fn lacks(&self, bytes: u64) {
        self.lacking.store(bytes, Ordering::Relaxed);
    }

    /// Whether it has room for that film now.
    pub(super) async fn has_room(&self) -> bool {
        let (parent, bytes) = (self.options.folder.clone(), self.lacking.load(Ordering::Relaxed));
        let has_room = move || spool_folder::has_room(parent.as_deref(), bytes);
        tokio::task::spawn_blocking(has_room).await.unwrap_or(false)
    }

    async fn open_file(&self, stores: &Stores, uri: &ItemUri) -> Result<Arc<Local>, StorageError> {
        let path = stores.local_path(uri).await?.ok_or_else(|| {
            StorageError::new(StorageErrorKind::InvalidUri, READING, uri.as_str(), "is not a local file")
        })?;
        let metadata = tokio::fs::metadata(&path).await.map_err(|error| failed(uri, error))?;
        let etag = Some(etag_of_file(&metadata));
        let mut films = self.lock();
        if let Some(film) = films.find(uri, etag.as_ref()) {
            return Ok(film);
        }
        let film = films.add(uri, Local::new(path, etag, metadata.len(), false));
        films.forget_files();
        Ok(film)
    }

    /// The film's entry, a new one in `folder` if there is room for its bytes; `None` if there is none yet.
    fn find_or_add(
        &self,
        uri: &ItemUri,
        etag: Option<&String>,
        bytes: u64,
        folder: &Path,
    ) -> Option<Arc<Local>> {
        let mut films = self.lock();
        if let Some(film) = films.find(uri, etag) {
            return Some(film);
        }
        if !films.make_room(bytes, self.options.max_bytes) {
            return None;
        }
        films.copies += 1;
        let path = folder.join(films.copies.to_string());
        Some(films.add(uri, Local::new(path, etag.cloned(), bytes, true)))
    }

    async fn folder(&self, uri: &ItemUri) -> Result<&SpoolFolder, StorageError> {
        let make = async { SpoolFolder::make(self.options.folder.as_deref()) };
        self.folder.get_or_try_init(|| make).await.map_err(|error| failed(uri, error))
    }

    fn lock(&self) -> MutexGuard<'_, Films> {
        self.films.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
