//! From what a user calls a model to a checked bundle.

mod cache;
mod found;
mod published;
mod remote;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
pub use cache::folder as cache_folder;
use captionfleet_model::bundle::Bundle;
use captionfleet_proto::storage::Stores;
use captionfleet_proto::uri::{ArchiveUri, Location};
pub use found::FoundModel;

use crate::demo_model;

/// The name under which the published model is known.
pub const PUBLISHED: &str = "tinygpt-v";

/// A model as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// None was named: the built-in one.
    Demo,
    /// TinyGPT-V as published, fetched and packed on first use.
    Published,
    /// A bundle's folder or tar file.
    Path(PathBuf),
    /// A bundle's tar file or folder in a bucket.
    Remote {
        /// The bucket.
        bucket: String,
        /// The tar file's key, or the folder's without its last slash.
        key: String,
    },
}

impl ModelChoice {
    /// Reads `--model`.
    ///
    /// # Errors
    /// For an `s3://` address that is none.
    pub fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        match text {
            None | Some("" | "demo") => Ok(Self::Demo),
            Some(PUBLISHED) => Ok(Self::Published),
            Some(uri) if uri.starts_with("s3://") => {
                let uri = ArchiveUri::parse(uri).context("--model is not a location")?;
                match uri.location() {
                    Location::S3 { bucket, key } => Ok(Self::Remote { bucket, key }),
                    Location::File(path) => Ok(Self::Path(path)),
                }
            }
            Some(path) => Ok(Self::Path(PathBuf::from(path))),
        }
    }

    /// Whether the built-in model serves.
    pub fn is_demo(&self) -> bool {
        matches!(self, Self::Demo)
    }

    /// Fetches what is not here yet, and opens it.
    ///
    /// # Errors
    /// One line that names the bundle, the damaged or missing file, and what to do.
    pub async fn resolve(&self, stores: &Stores) -> anyhow::Result<FoundModel> {
        let bundle = match self.open(stores).await {
            Err(error) if self.delete_damaged(&error) => self.open(stores).await?,
            opened => opened?,
        };
        Ok(FoundModel { choice: self.clone(), bundle: Arc::new(bundle) })
    }

    async fn open(&self, stores: &Stores) -> anyhow::Result<Bundle> {
        match self {
            Self::Demo => Ok(demo_model::bundle()?),
            Self::Path(path) => open(path.clone()).await,
            Self::Remote { bucket, key } => open(remote::fetch(stores, bucket, key).await?).await,
            Self::Published => open(published::fetch_and_pack().await?).await,
        }
    }
}

/// Opens a bundle off the async threads.
async fn open(path: PathBuf) -> anyhow::Result<Bundle> {
    anyhow::ensure!(
        path.exists(),
        "there is no model at {}: name a bundle's folder or .tar file, s3://bucket/key, or {PUBLISHED}",
        path.display()
    );
    Ok(tokio::task::spawn_blocking(move || Bundle::open(&path)).await??)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(ModelChoice::parse(None).unwrap(), ModelChoice::Demo);
        assert_eq!(ModelChoice::parse(Some("tinygpt-v")).unwrap(), ModelChoice::Published);
        assert_eq!(ModelChoice::parse(Some("./x.tar")).unwrap(), ModelChoice::Path("./x.tar".into()));
        let remote = ModelChoice::Remote { bucket: "models".to_owned(), key: "a/b.tar".to_owned() };
        assert_eq!(ModelChoice::parse(Some("s3://models/a/b.tar")).unwrap(), remote);
        assert!(ModelChoice::parse(Some("s3://")).is_err());
    }
}
