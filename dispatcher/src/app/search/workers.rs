//! Who has the model: a fleet, or a worker in this process. It embeds queries and judges hits.

use super::Wanted;
use crate::config::FleetSettings;
use crate::exchange::Exchange;
use crate::fleet::{Fleet, Model};
use crate::index::Ranked;
use crate::progress::Display;
use crate::search::query::{self, Embedded, embed};
use crate::search::rerank;
use crate::staging::address;
use anyhow::Context as _;
use captionfleet_proto::job::{JobItem, Match, Query};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Whoever answers, as long as one search lasts.
pub(super) struct Workers<'a> {
    fleet: Fleet,
    exchange: Exchange,
    bundle: Option<String>,
    remote: bool,
    uri: &'a ArchiveUri,
    stop: &'a CancellationToken,
}

impl<'a> Workers<'a> {
    /// Connects to the fleet, or starts a worker in this process; `stop` takes questions back.
    pub(super) async fn open(
        settings: &FleetSettings,
        uri: &'a ArchiveUri,
        stores: Arc<Stores>,
        display: Display,
        patience: Duration,
        stop: &'a CancellationToken,
    ) -> anyhow::Result<Self> {
        let remote = settings.is_remote();
        let model = match (remote, &settings.model) {
            (true, None) => None,
            _ => Some(Model::resolve(settings, &stores).await?),
        };
        if let Some(model) = &model {
            anyhow::ensure!(
                model.embedding_space().is_some(),
                "this model has no retrieval heads and cannot search: name another one with --model, or pack it with --itc"
            );
        }
        let bundle = model.as_ref().map(Model::id);
        let mut fleet = if remote {
            Fleet::remote(settings, stores).await?
        } else {
            Fleet::embedded(settings, stores).await?
        };
        if let (Some(model), false) = (model, remote) {
            if model.is_demo {
                display.remark(demo_model::NOTICE);
            }
            fleet.start_worker(model, WorkerMetrics::new());
        }
        let exchange = Exchange::new(fleet.broker.clone(), fleet.topology.clone(), patience);
        Ok(Self { fleet, exchange, bundle, remote, uri, stop })
    }

    /// Whether workers of several models may answer.
    pub(super) fn may_differ(&self) -> bool {
        self.bundle.is_none()
    }

    /// Embeds queries, in their order; in `space`, if a worker has it.
    pub(super) async fn embed(
        &mut self,
        archive: &dyn Storage,
        wanted: &[Wanted<'_>],
        space: Option<String>,
    ) -> anyhow::Result<Vec<Embedded>> {
        let mut queries = Vec::new();
        for wanted in wanted {
            queries.push(query(wanted, self.uri, archive, self.remote).await?);
        }
        let from = query::Wanted { bundle: self.bundle.clone(), space };
        let (exchange, uri, stop) = (&self.exchange, self.uri, self.stop);
        let asked = queries.into_iter().map(|query| embed(exchange, uri, &from, query, stop));
        tokio::select! {
            embedded = futures::future::try_join_all(asked) => embedded,
            gone = self.fleet.worker_gone() => Err(gone),
        }
    }

    /// Lets the model judge the best hits by `text`.
    pub(super) async fn rerank(
        &mut self,
        archive: &dyn Storage,
        ranked: &mut Ranked,
        text: &str,
    ) -> anyhow::Result<()> {
        let items = rerank::items(archive, self.uri, self.remote, &ranked.candidates()).await?;
        let bundle = self.bundle.as_deref();
        let asked = rerank::judge(&self.exchange, self.uri, bundle, text, items, self.stop);
        let judged: Vec<Match> = tokio::select! {
            judged = asked => judged?,
            gone = self.fleet.worker_gone() => return Err(gone),
        };
        ranked.rerank(&judged);
        Ok(())
    }

    /// Lets go of the fleet, or ends the worker in this process.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.exchange.close().await;
        self.fleet.close().await
    }
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
