//! Where a bundle's files are: a folder, one tar archive, or the program itself.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::{BundleError, MANIFEST};

/// More files than a bundle ever has; an archive with more is something else.
const MOST_FILES: usize = 64;

/// Read access to the files of a bundle by name.
#[derive(Debug)]
pub(super) struct BundleFiles {
    place: String,
    files: HashMap<String, Content>,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    /// An empty file cannot be mapped.
    Empty,
    Static(&'static [u8]),
    /// Part of the mapped archive.
    Part(std::sync::Arc<Mmap>, Range<usize>),
}

impl BundleFiles {
    pub(super) fn memory(files: &'static [(&'static str, &'static [u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Content::Static(bytes))).collect();
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
            let content = map(&entry.path()).map_err(|source| BundleError::Read {
                place: place.clone(),
                file: name.clone(),
                source,
            })?;
            files.insert(name, content.map_or(Content::Empty, Content::Mapped));
        }
        Ok(Self { place, files })
    }

    pub(super) fn archive(path: &Path) -> Result<Self, BundleError> {
        let place = path.display().to_string();
        let not_a_bundle = |reason: String| BundleError::NotABundle { place: place.clone(), reason };
        let mapped = map(path)
            .map_err(|error| not_a_bundle(error.to_string()))?
            .ok_or_else(|| not_a_bundle("the file is empty".to_owned()))?;
        let mapped = std::sync::Arc::new(mapped);
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
                files.insert(name, Content::Part(std::sync::Arc::clone(&mapped), range));
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

    pub(super) fn bytes(&self, file: &str) -> Result<&[u8], BundleError> {
        match self.files.get(file) {
            Some(Content::Mapped(mapped)) => Ok(mapped),
            Some(Content::Empty) => Ok(&[]),
            Some(Content::Static(bytes)) => Ok(bytes),
            Some(Content::Part(mapped, range)) => Ok(&mapped[range.clone()]),
            None => Err(BundleError::NotABundle {
                place: self.place.clone(),
                reason: format!("its {file} is missing"),
            }),
        }
    }
}

/// Maps a file into memory; `None` for an empty one.
fn map(path: &Path) -> std::io::Result<Option<Mmap>> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the map is read-only. Whoever changes a bundle's file under a running worker changes bytes that have
    // been hashed already; they are only ever read as numbers and text, so the worst is a wrong answer.
    #[allow(unsafe_code)]
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Some(mapped))
}
