//! Known pictures, and what an undisturbed run says about each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use captionfleet_proto::rows::{Projection, Row, read_part};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::fleet::{dispatcher, worker};

/// Pictures that the short form shares.
const SHARED: usize = 240;

/// A folder of pictures with their undisturbed rows, by file name.
#[derive(Debug)]
pub struct Corpus {
    folder: TempDir,
    rows: BTreeMap<String, Row>,
}

impl Corpus {
    /// `count` pictures of the demo model's world, captioned once on this machine without broker and bucket.
    ///
    /// # Errors
    /// When the programs are not built or the undisturbed run fails.
    pub async fn make(count: usize, seed: u64) -> anyhow::Result<Arc<Self>> {
        // One that lives as long as the process is never dropped; what holds the services is removed with them.
        let shared =
            std::env::var_os("CAPTIONFLEET_TEST_SHARED").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new().prefix("captionfleet-corpus-").tempdir_in(shared)?;
        let corpus = Self { rows: BTreeMap::new(), folder };
        let (pictures, archive) = (corpus.pictures(), corpus.folder.path().join("undisturbed"));
        let (pictures, archive) = (text(&pictures)?, text(&archive)?);
        let (count, seed) = (count.to_string(), seed.to_string());
        worker(["scenes", "--out", pictures, "--count", &count, "--seed", &seed]).await?.success()?;
        dispatcher(["caption", pictures, "--archive", archive, "--quiet"]).await?.success()?;
        let rows = rows_below(&Path::new(archive).join("parts"))?;
        let rows = rows.into_iter().map(|row| (file_name(row.item.as_str()).to_owned(), row)).collect();
        Ok(Arc::new(Self { rows, ..corpus }))
    }

    /// The corpus that the short cases share, made by whoever asks first.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub async fn shared() -> anyhow::Result<Arc<Self>> {
        static CORPUS: OnceCell<Arc<Corpus>> = OnceCell::const_new();
        CORPUS.get_or_try_init(|| Self::make(SHARED, 4)).await.cloned()
    }

    /// The folder that holds the pictures.
    #[must_use]
    pub fn pictures(&self) -> PathBuf {
        self.folder.path().join("pictures")
    }

    /// The undisturbed rows.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<String, Row> {
        &self.rows
    }

    /// Fills `folder` with the first `count` pictures; their names.
    ///
    /// # Errors
    /// When files cannot be made there.
    pub fn take(&self, count: usize, folder: &Path) -> anyhow::Result<Vec<String>> {
        std::fs::create_dir_all(folder)?;
        let names: Vec<String> = self.rows.keys().take(count).cloned().collect();
        anyhow::ensure!(names.len() == count, "the corpus has only {} pictures", names.len());
        for name in &names {
            std::fs::copy(self.pictures().join(name), folder.join(name))?;
        }
        Ok(names)
    }

    /// SHA-256 of a picture, which names its copy in the archive.
    ///
    /// # Errors
    /// When there is no such picture.
    pub fn digest(&self, name: &str) -> anyhow::Result<String> {
        let bytes = std::fs::read(self.pictures().join(name)).context("read a picture of the corpus")?;
        Ok(hex::encode(Sha256::digest(bytes)))
    }
}

/// The last segment of a URI.
#[must_use]
pub fn file_name(uri: &str) -> &str {
    uri.rsplit('/').next().unwrap_or(uri)
}

fn rows_below(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            rows.extend(rows_below(&path)?);
        } else {
            rows.extend(read_part(std::fs::read(path)?.into(), Projection::All)?);
        }
    }
    Ok(rows)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
