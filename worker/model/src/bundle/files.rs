//! Where a bundle's files are: a folder, one tar archive, or the program itself.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::{BundleError, MANIFEST};

/// More files than a bundle ever has; an archive with more is something else.
const MOST_FILES: usize = 64;
/// At least the size of a page on every system we run on, and a multiple of it.
const PAGE: usize = 1 << 16;

/// Read access to the files of a bundle by name.
#[derive(Debug)]
pub(super) struct BundleFiles {
    place: String,
    files: HashMap<String, FileBytes>,
}

/// A file's content, read where it lies; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum FileBytes {
    Static(&'static [u8]),
    /// All or part of a mapped file.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl FileBytes {
    /// Maps a file.
    pub(crate) fn map(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            // An empty file cannot be mapped.
            return Ok(Self::Static(&[]));
        }
        // SAFETY: the map is read-only. Whoever changes a bundle's file under a running worker changes bytes that have
        // been hashed already; they are only ever read as numbers and text, so the worst is a wrong answer.
        #[allow(unsafe_code)]
        let mapped = unsafe { Mmap::map(&file)? };
        let range = 0..mapped.len();
        Ok(Self::Mapped(Arc::new(mapped), range))
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(mapped, range) => &mapped[range.clone()],
        }
    }

    /// Lets the pages of `part` go until they are read again: weights that have been copied need not stay resident a
    /// second time. Harmless where the system does not know how.
    pub(crate) fn release(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(mapped, range) = self {
            let start = (range.start + part.start).next_multiple_of(PAGE);
            let end = (range.start + part.end.min(range.len())) / PAGE * PAGE;
            if start < end {
                // SAFETY: the map is read-only and backed by a file, so the pages come back unchanged when read again.
                #[allow(unsafe_code)]
                let released = unsafe {
                    mapped.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
                if let Err(error) = released {
                    tracing::debug!(%error, "read pages of a bundle stay resident");
                }
            }
        }
    }
}

impl BundleFiles {
    pub(super) fn memory(files: &'static [(&'static str, &'static [u8])]) -> Self {
        let files =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), FileBytes::Static(bytes))).collect();
        Self { place: "built into this program".to_owned(), files }
    }

    pub(super) fn folder(path: &Path) -> Result<Self, BundleError> {
        let place = path.display().to_string();
        let not_a_bundle = |reason: String| BundleError::NotABundle { place: place.clone(), reason };
        if !path.join(MANIFEST).is_file() {
            return Err(not_a_bundle(format!("it has no {MANIFEST}")));
        }
        let mut files = HashMap::new();
        let entries = std::fs::read_dir(path).map_err(|error| not_a_bundle(error.to_string()))?;
        for entry in entries.flatten() {
            let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_file()) else {
                continue;
            };
            let content = FileBytes::map(&entry.path()).map_err(|source| BundleError::Read {
                place: place.clone(),
                file: name.clone(),
                source,
            })?;
            files.insert(name, content);
        }
        Ok(Self { place, files })
    }

    pub(super) fn archive(path: &Path) -> Result<Self, BundleError> {
        let place = path.display().to_string();
        let not_a_bundle = |reason: String| BundleError::NotABundle { place: place.clone(), reason };
        let mapped = match FileBytes::map(path).map_err(|error| not_a_bundle(error.to_string()))? {
            FileBytes::Mapped(mapped, _) => mapped,
            FileBytes::Static(_) => return Err(not_a_bundle("the file is empty".to_owned())),
        };
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(&mapped[..]);
        let entries = archive.entries().map_err(|error| not_a_bundle(error.to_string()))?;
        for entry in entries.take(MOST_FILES) {
            let entry = entry.map_err(|_| not_a_bundle("the file is not a tar archive".to_owned()))?;
            let Some(name) = entry.path().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
            else {
                continue;
            };
            let start = entry.raw_file_position() as usize;
            let range = start..start.saturating_add(entry.size() as usize);
            if mapped.get(range.clone()).is_none() {
                return Err(not_a_bundle(format!("the archive ends in the middle of {name}")));
            }
            if entry.header().entry_type().is_file() {
                files.insert(name, FileBytes::Mapped(Arc::clone(&mapped), range));
            }
        }
        if !files.contains_key(MANIFEST) {
            return Err(not_a_bundle(format!("it has no {MANIFEST}")));
        }
        Ok(Self { place, files })
    }

    /// Folder or file, for messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn get(&self, file: &str) -> Result<&FileBytes, BundleError> {
        self.files.get(file).ok_or_else(|| BundleError::NotABundle {
            place: self.place.clone(),
            reason: format!("its {file} is missing"),
        })
    }

    pub(super) fn bytes(&self, file: &str) -> Result<&[u8], BundleError> {
        Ok(self.get(file)?.as_slice())
    }
}
