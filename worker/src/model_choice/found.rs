//! A model that was found, and what becomes of a copy of it that turns out to be damaged.

use std::path::Path;
use std::sync::Arc;

use captionfleet_model::bundle::{Bundle, BundleError};
use captionfleet_proto::storage::Stores;

use super::{ModelChoice, cache};

/// A bundle that is whole but for its weights, whose hash is checked when they are read.
#[derive(Debug)]
pub struct FoundModel {
    pub(super) choice: ModelChoice,
    pub(super) bundle: Arc<Bundle>,
}

impl FoundModel {
    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Has `load` read the weights, where it may block. A copy in the cache that turns out to be damaged is deleted and fetched
    /// once more.
    ///
    /// # Errors
    /// Those of `load` and of fetching; another bundle in the place of the one that was found.
    pub async fn load<T: Send + 'static>(
        &self,
        stores: &Stores,
        load: impl Fn(&Bundle) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<T> {
        let load = Arc::new(load);
        match blocking(Arc::clone(&load), Arc::clone(&self.bundle)).await {
            Err(error) if self.choice.delete_damaged(&error) => {
                let again = self.choice.open(stores).await?;
                anyhow::ensure!(
                    again.id() == self.bundle.id(),
                    "another bundle has taken the place of the model that was found: start again"
                );
                blocking(load, Arc::new(again)).await
            }
            loaded => loaded,
        }
    }
}

async fn blocking<T: Send + 'static>(
    load: Arc<impl Fn(&Bundle) -> anyhow::Result<T> + Send + Sync + 'static>,
    bundle: Arc<Bundle>,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(move || load(&bundle)).await?
}

impl ModelChoice {
    /// Deletes what `error` says is damaged if it is a copy in the cache; whether it was.
    pub(super) fn delete_damaged(&self, error: &anyhow::Error) -> bool {
        let Self::Remote { .. } = self else { return false };
        let damaged = match error.downcast_ref() {
            Some(BundleError::Damaged { place, file }) => {
                let place = Path::new(place);
                if place.is_dir() { place.join(file) } else { place.to_owned() }
            }
            Some(BundleError::NotABundle { place, .. }) => place.into(),
            _ => return false,
        };
        let is_copy = cache::bundles().is_ok_and(|bundles| damaged.starts_with(bundles));
        let is_deleted = is_copy && std::fs::remove_file(&damaged).is_ok();
        if is_deleted {
            tracing::warn!(
                file = %damaged.display(),
                "a copy of the model was damaged and has been deleted: it is fetched once more"
            );
        }
        is_deleted
    }
}
