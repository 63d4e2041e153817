//! What is submitted, and the plan that follows from it.

use super::{nothing, owed, prepared};
use crate::archive;
use crate::catalog::{self, Catalog, Identity, Item};
use crate::config::settings::WorkSettings;
use crate::prepare::{self, Compared, Prepared};
use crate::progress::Display;
use crate::serve::Ground;
use crate::wish::Wish;
use captionfleet_proto::job::{JobItem, Prompt, RunId};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::Status;
use jiff::Timestamp;
use std::collections::HashSet;

/// Pictures per job where nobody said how many.
const JOB_SIZE: usize = 64;

/// What is submitted.
#[derive(Debug, Clone)]
pub enum Order {
    /// Caption what some sources have.
    Sources(Box<WorkSettings>),
    /// Go on with a run.
    Continue {
        /// The run.
        manifest: RunManifest,
    },
    /// Do again what failed in a run, and go on with it.
    Retry {
        /// The run.
        manifest: RunManifest,
        /// Keys of its parts with failed rows.
        failed: Vec<String>,
    },
}

impl Order {
    /// The sources as the new run's manifest names them.
    pub(super) fn sources(&self) -> Vec<String> {
        match self {
            Self::Sources(settings) => settings.sources.iter().map(ToString::to_string).collect(),
            Self::Continue { manifest } | Self::Retry { manifest, .. } => manifest.source.clone(),
        }
    }

    /// The run that it is about, if it is about one that exists.
    pub(super) fn run(&self) -> Option<&RunId> {
        match self {
            Self::Sources(_) => None,
            Self::Continue { manifest } | Self::Retry { manifest, .. } => Some(&manifest.run),
        }
    }

    /// What the order asks of every picture.
    pub(super) fn settings(&self, ground: &Ground) -> WorkSettings {
        match self {
            Self::Sources(settings) => (**settings).clone(),
            Self::Continue { manifest } | Self::Retry { manifest, .. } => again(ground, manifest),
        }
    }

    /// The plan.
    pub(super) async fn prepared(
        &self,
        ground: &Ground,
        settings: &WorkSettings,
    ) -> anyhow::Result<Prepared> {
        let stores = &ground.patient_stores;
        let listed = match self {
            Self::Continue { manifest } => {
                let mut plan = nothing();
                plan.continued.extend(owed(ground, manifest).await?);
                return Ok(prepared(ground, settings, plan, Timestamp::now()));
            }
            Self::Sources(_) => catalog::list(&settings.sources, &settings.catalog_options(), stores).await?,
            Self::Retry { manifest, failed } => failures(ground, manifest, failed).await?,
        };
        let wish = &settings.wish;
        let Compared { mut plan, films, now } =
            prepare::compare(settings, wish, &*ground.patient, listed, stores, Display::Quiet).await?;
        if let Self::Retry { manifest, .. } = self {
            plan.continued.retain(|run| run.manifest.run != manifest.run);
            plan.continued.extend(owed(ground, manifest).await?);
        }
        Ok(Prepared { films, ..prepared(ground, settings, plan, now) })
    }
}

/// The items of failed rows, taken for new: whatever is there now is read. What was asked about each is asked again.
async fn failures(ground: &Ground, manifest: &RunManifest, parts: &[String]) -> anyhow::Result<Catalog> {
    let (mut seen, mut failed, mut catalog) = (HashSet::new(), HashSet::new(), Catalog::default());
    for key in parts {
        for row in archive::keys(&*ground.patient, key.clone()).await? {
            if row.status == Status::Failed && failed.insert((row.job, row.item.clone())) {
                let item = Item { uri: row.item, identity: Identity::Unversioned, size: None };
                if seen.insert(item.uri.clone()) {
                    catalog.items.push(item);
                }
            }
        }
    }
    // Only such runs have items with questions of their own, and the table of a large run is long.
    if matches!(manifest.prompt, Prompt::Questions { .. }) {
        for planned in archive::items(&*ground.patient, manifest).await? {
            let JobItem { uri, questions, .. } = planned.item;
            if failed.remove(&(planned.job, uri.clone())) {
                // Answers are told apart by their places: one question may be asked twice about a picture.
                let asked = catalog.questions.entry(uri).or_default();
                let other_jobs = asked.len();
                for question in questions {
                    if !asked[..other_jobs].contains(&question) {
                        asked.push(question);
                    }
                }
            }
        }
    }
    Ok(catalog)
}

/// The settings that a run was made with.
fn again(ground: &Ground, manifest: &RunManifest) -> WorkSettings {
    WorkSettings {
        sources: Vec::new(),
        archive: ground.uri.clone(),
        wish: Wish {
            prompt: manifest.prompt.clone(),
            max_tokens: manifest.max_tokens,
            adapter: manifest.adapter.clone(),
            embed: manifest.embed,
            bundle: manifest.bundle.clone(),
            sample: manifest.sample.unwrap_or_default(),
            thumbnails: manifest.thumbnails.unwrap_or(false),
        },
        job_size: if manifest.job_size == 0 { JOB_SIZE } else { manifest.job_size as usize },
        pictures_only: false,
        retry_failed: true,
        thumbnails: manifest.thumbnails.unwrap_or(false),
        adapter: None,
        fleet: ground.settings.clone(),
    }
}
