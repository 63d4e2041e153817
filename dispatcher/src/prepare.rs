//! What comes before the first job: listing, reading the archive, comparing.

use crate::adapter;
use crate::archive;
use crate::catalog::{self, Catalog};
use crate::config::settings::WorkSettings;
use crate::fleet::Model;
use crate::history;
use crate::output::counted;
use crate::plan::{self, Plan, PlanOptions};
use crate::progress::Display;
use crate::survey;
use crate::wish::Wish;
use captionfleet_proto::job::RunId;
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::rows::EmbeddingShape;
use captionfleet_proto::storage::{Storage, Stores};
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::spans;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tracing::Instrument as _;

/// Everything that is known before the first job.
pub struct Prepared {
    /// The open archive.
    pub archive: Arc<dyn Storage>,
    /// What is asked, the bundle included.
    pub wish: Wish,
    /// What is to be done.
    pub plan: Plan,
    /// The model, unless a fleet serves whatever it has.
    pub model: Option<Model>,
    /// How its embeddings are arranged, where that is known.
    pub shape: Option<EmbeddingShape>,
    /// Complete runs with videos that answer the wish.
    pub films: Vec<RunManifest>,
    /// When it was planned.
    pub now: Timestamp,
}

/// What came of comparing sources with the archive.
pub struct Compared {
    /// What is to be done.
    pub plan: Plan,
    /// Complete runs with videos that answer the wish.
    pub films: Vec<RunManifest>,
    /// When it was planned.
    pub now: Timestamp,
}

/// Lists the sources and compares them with the archive; writes nothing.
pub async fn prepare(settings: &WorkSettings, stores: &Stores, display: Display) -> anyhow::Result<Prepared> {
    let span = tracing::info_span!(target: spans::TARGET, "plan");
    list_and_compare(settings, stores, display).instrument(span).await
}

async fn list_and_compare(
    settings: &WorkSettings,
    stores: &Stores,
    display: Display,
) -> anyhow::Result<Prepared> {
    let archive = archive::open(stores, &settings.archive).await?;
    let model = model(settings, stores, display).await?;
    let mut wish = settings.wish.clone();
    if let Some(uri) = &settings.adapter {
        wish.adapter = Some(adapter::resolve(stores, uri).await?);
    }
    if let Some(model) = &model {
        wish.bundle = Some(model.id());
        if wish.embed && model.embedding_space().is_none() {
            display.remark(
                "this model has no retrieval heads: no embeddings are made, `search` will find nothing",
            );
            wish.embed = false;
        }
    }
    let listed = {
        let _busy = display.busy("listing the sources");
        let span = tracing::info_span!(target: spans::TARGET, "list");
        catalog::list(&settings.sources, &settings.catalog_options(), stores).instrument(span).await?
    };
    let Compared { plan, films, now } = compare(settings, &wish, &*archive, listed, stores, display).await?;
    Ok(Prepared { archive, wish, plan, model, shape: None, films, now })
}

/// Compares what was listed with the archive.
pub async fn compare(
    settings: &WorkSettings,
    wish: &Wish,
    archive: &dyn Storage,
    listed: Catalog,
    stores: &Stores,
    display: Display,
) -> anyhow::Result<Compared> {
    let mut history = {
        let _busy = display.busy("reading what the archive has");
        history::load(archive, wish).await?
    };
    if let Some(first) = history.damaged.first() {
        let objects = counted(history.damaged.len() as u64, "object");
        display.remark(format!(
            "{objects} of the archive cannot be used (`dispatcher verify` lists them): {first}"
        ));
    }
    let lengths = {
        let _busy = display.busy("measuring the videos");
        let videos = plan::open_videos(&listed, &history, settings.retry_failed);
        survey::lengths(videos, stores).await?
    };
    let now = Timestamp::now();
    let options = PlanOptions {
        run: new_run_id(now),
        job_size: settings.job_size,
        retry_failed: settings.retry_failed,
        refuse_unreadable: settings.fleet.is_remote(),
        lengths,
    };
    let films = std::mem::take(&mut history.films);
    Ok(Compared { plan: plan::plan(listed, &history, wish, &options), films, now })
}

/// The model that serves in this process, or that a fleet is required to have.
async fn model(settings: &WorkSettings, stores: &Stores, display: Display) -> anyhow::Result<Option<Model>> {
    if settings.fleet.is_remote() && settings.fleet.model.is_none() {
        return Ok(None);
    }
    let _busy = display.busy("opening the model");
    let model = Model::resolve(&settings.fleet, stores).await?;
    if model.is_demo {
        display.remark(demo_model::NOTICE);
    }
    Ok(Some(model))
}

/// A name that sorts by time and that no other submission has.
fn new_run_id(now: Timestamp) -> RunId {
    let mut digest = Sha256::new();
    digest.update(now.as_nanosecond().to_le_bytes());
    digest.update(std::process::id().to_le_bytes());
    let digest = hex::encode(digest.finalize());
    RunId::new(format!("{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), &digest[..6]))
        .expect("a time and six digits are a valid id")
}
