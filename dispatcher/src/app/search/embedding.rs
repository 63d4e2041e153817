//! Queries become vectors.

use super::Wanted;
use crate::config::FleetSettings;
use crate::fleet::{Fleet, Model};
use crate::progress::Display;
use crate::search::query::{Embedded, embed};
use crate::staging::address;
use anyhow::Context as _;
use captionfleet_proto::job::{JobItem, Query};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Embeds queries by the fleet, or by a worker in this process; `stop` takes the questions back.
#[allow(clippy::too_many_arguments, reason = "one caller, and nothing that belongs together")]
pub(super) async fn embedded(
    settings: &FleetSettings,
    uri: &ArchiveUri,
    archive: &dyn Storage,
    stores: Arc<Stores>,
    wanted: &[Wanted<'_>],
    display: Display,
    patience: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Embedded>> {
    let model = match (settings.is_remote(), &settings.model) {
        (true, None) => None,
        _ => Some(Model::resolve(settings, &stores).await?),
    };
    if let Some(model) = &model {
        anyhow::ensure!(
            model.embedding_space().is_some(),
            "this model has no retrieval heads and cannot search: name another one with --model"
        );
    }
    let bundle = model.as_ref().map(Model::id);
    let mut fleet = if settings.is_remote() {
        Fleet::remote(settings, stores).await?
    } else {
        Fleet::embedded(settings, stores).await?
    };
    let mut queries = Vec::new();
    for wanted in wanted {
        queries.push(query(wanted, uri, archive, settings.is_remote()).await?);
    }
    if let (Some(model), false) = (model, settings.is_remote()) {
        if model.is_demo {
            display.remark(demo_model::NOTICE);
        }
        fleet.start_worker(model, WorkerMetrics::new());
    }
    let (broker, topology) = (fleet.broker.clone(), fleet.topology.clone());
    let asked = queries
        .into_iter()
        .map(|query| embed(&*broker, &topology, uri, bundle.clone(), query, patience, stop));
    let embedded = tokio::select! {
        embedded = futures::future::try_join_all(asked) => embedded,
        gone = fleet.worker_gone() => Err(gone),
    };
    let closed = fleet.close().await;
    let embedded = embedded?;
    closed?;
    Ok(embedded)
}

/// The query; a picture is copied into the archive where workers elsewhere must read it.
async fn query(
    wanted: &Wanted<'_>,
    uri: &ArchiveUri,
    archive: &dyn Storage,
    remote: bool,
) -> anyhow::Result<Query> {
    let path = match wanted {
        Wanted::Text(text) => return Ok(Query::Text { text: (*text).to_owned() }),
        Wanted::Image(path) => *path,
    };
    let unreadable = || format!("--image {}: the file cannot be read", path.display());
    let bytes = std::fs::read(path).with_context(unreadable)?;
    let mut item = JobItem::new(ItemUri::from_path(&std::path::absolute(path)?.canonicalize()?)?);
    let sha256 = hex::encode(Sha256::digest(&bytes));
    if remote {
        let key = layout::query_image(&sha256);
        archive.put(&key, bytes.into(), PutMode::IfAbsent).await?;
        item.fetch = Some(address(uri, &key));
    }
    item.sha256 = Some(sha256);
    Ok(Query::Image { item })
}
