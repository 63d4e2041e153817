//! `dispatcher search`: embed the query, compare it with every picture, show the best.

use super::fleet::{Fleet, Model};
use super::stopping;
use crate::archive;
use crate::config::UsageError;
use crate::config::args::SearchArgs;
use crate::config::settings::{FleetSettings, archive as archive_uri};
use crate::exit::Ended;
use crate::output::{self, clipped, counted, plain};
use crate::progress::{Display, clock};
use crate::search::query::{Embedded, embed};
use crate::search::{Hit, Query as QueryVectors, Ranking, rank};
use crate::staging::address;
use anyhow::Context as _;
use captionfleet_proto::job::{JobItem, Query};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, StorageErrorKind, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri, Location};
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The longest query text, in bytes; the model cuts it far below that.
const TEXT_BYTES: usize = 4096;

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    embedding_space: String,
    pictures: usize,
    hits: Vec<Hit>,
}

/// What is searched for.
pub enum Wanted<'a> {
    /// Pictures that a text describes.
    Text(&'a str),
    /// Pictures like one in a file.
    Image(&'a Path),
}

/// Runs the command.
pub async fn run(args: SearchArgs) -> anyhow::Result<Ended> {
    let uri = archive_uri(&args.archive)?;
    let settings = FleetSettings::new(&args.fleet);
    if settings.is_remote() && uri.is_local() {
        let reason = "--broker needs an s3:// archive; leave out --broker to search a folder's archive";
        return Err(UsageError::new(format!("--archive {uri}: {reason}")).into());
    }
    let wanted = match (&args.text, &args.image) {
        (_, Some(image)) => Wanted::Image(image),
        (Some(text), None) => Wanted::Text(checked(text)?),
        (None, None) => return Err(UsageError::new("give a text or --image FILE").into()),
    };
    let display = Display::choose(args.output.quiet);
    let stop = stopping::on_signal()?;
    let searching = search(&settings, &uri, &wanted, display, Duration::from_secs(args.timeout));
    let (ranking, space) = tokio::select! {
        found = searching => found?,
        () = stop.cancelled() => anyhow::bail!("stopped"),
    };
    let pictures = ranking.pictures();
    let mut hits = ranking.best(args.top_k as usize);
    if args.thumbnails {
        find_thumbnails(&mut hits, &settings, &uri).await?;
    }
    if args.output.json {
        output::json(&Answer { archive: uri.to_string(), embedding_space: space, pictures, hits })?;
    } else {
        for hit in &hits {
            output::line(line(hit));
        }
        display.remark(format!("compared with {}", counted(pictures as u64, "picture")));
    }
    Ok(Ended::Well)
}

/// Heads of objects that are asked for at once.
const HEADS_AT_ONCE: usize = 16;

/// Says of every frame found where its small picture is.
async fn find_thumbnails(hits: &mut [Hit], settings: &FleetSettings, uri: &ArchiveUri) -> anyhow::Result<()> {
    let archive = archive::open(&Stores::new(settings.storage.clone()), uri).await?;
    let frames = hits.iter_mut().filter_map(|hit| {
        let key = layout::thumbnail(&ItemUri::parse(&hit.item).ok()?, hit.frame_ms?);
        Some((hit, key))
    });
    futures::stream::iter(frames)
        .map(|(hit, key)| {
            let archive = &archive;
            async move {
                match archive.head(&key).await {
                    Ok(_) => hit.thumbnail = Some(address(uri, &key).to_string()),
                    Err(error) if error.kind() == StorageErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            }
        })
        .buffer_unordered(HEADS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(())
}

fn checked(text: &str) -> Result<&str, UsageError> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES {
        return Err(UsageError::new(format!("the text must have 1 to {TEXT_BYTES} bytes")));
    }
    Ok(text)
}

/// Compares the query with every picture of the archive; also the name of the embedding space.
pub async fn search(
    settings: &FleetSettings,
    uri: &ArchiveUri,
    wanted: &Wanted<'_>,
    display: Display,
    patience: Duration,
) -> anyhow::Result<(Ranking, String)> {
    let stores = Arc::new(Stores::new(settings.storage.clone()));
    let archive = archive::open(&stores, uri).await?;
    anyhow::ensure!(
        !archive::parts(&*archive, None).await?.is_empty(),
        "{uri}: there is nothing to search here yet; `dispatcher caption … --archive {uri}` fills it"
    );
    let embedded = {
        let _busy = display.busy("embedding the query");
        embedded(settings, uri, &*archive, stores.clone(), wanted, display, patience).await?
    };
    let query = QueryVectors::new(embedded.vectors)?;
    let (ranking, damaged) = {
        let _busy = display.busy("comparing");
        rank(&*archive, query, &embedded.space).await?
    };
    tell(&ranking, damaged, &embedded.space, uri, display)?;
    Ok((ranking, embedded.space))
}

/// Embeds the query by the fleet, or by a worker in this process.
async fn embedded(
    settings: &FleetSettings,
    uri: &ArchiveUri,
    archive: &dyn Storage,
    stores: Arc<Stores>,
    wanted: &Wanted<'_>,
    display: Display,
    patience: Duration,
) -> anyhow::Result<Embedded> {
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
    let query = query(wanted, uri, archive, settings.is_remote()).await?;
    if let (Some(model), false) = (model, settings.is_remote()) {
        if model.is_demo {
            display.remark(demo_model::NOTICE);
        }
        fleet.start_worker(model, WorkerMetrics::new());
    }
    let (broker, topology) = (fleet.broker.clone(), fleet.topology.clone());
    let embedded = tokio::select! {
        embedded = embed(&*broker, &topology, uri, bundle, query, patience) => embedded,
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

/// Says what the search could not see.
fn tell(
    ranking: &Ranking,
    damaged: u64,
    space: &str,
    uri: &ArchiveUri,
    display: Display,
) -> anyhow::Result<()> {
    let foreign: Vec<_> = ranking
        .foreign()
        .iter()
        .map(|(space, rows)| format!("{space} ({})", counted(*rows, "row")))
        .collect();
    if ranking.pictures() == 0 {
        anyhow::ensure!(
            foreign.is_empty(),
            "{uri}: the query was embedded in the space {space}, but this archive has {}; name the model that made \
             it with --model",
            foreign.join(", ")
        );
        anyhow::bail!("{uri}: no picture here has an embedding; was it made with --no-embed?");
    }
    if !foreign.is_empty() {
        display.remark(format!("not compared, because made by other models: {}", foreign.join(", ")));
    }
    if damaged > 0 {
        let parts = counted(damaged, "part");
        display.remark(format!("{parts} could not be read; `dispatcher verify` says which"));
    }
    Ok(())
}

/// One hit as text, with the picture's name as people write it.
fn line(hit: &Hit) -> String {
    let frame = hit.frame_ms.map(|frame| format!(" at {}", clock(frame))).unwrap_or_default();
    let thumbnail = hit.thumbnail.as_ref().map(|at| format!("  {at}")).unwrap_or_default();
    let name = match ItemUri::parse(&hit.item).as_ref().map(ItemUri::location) {
        Ok(Location::File(path)) => path.display().to_string(),
        Ok(Location::S3 { bucket, key }) => format!("s3://{bucket}/{key}"),
        Err(_) => hit.item.clone(),
    };
    format!(
        "{:>3}  {:.3}  {}{frame}  {}{thumbnail}",
        hit.rank,
        hit.score,
        plain(&name),
        clipped(&plain(&hit.caption), 100)
    )
}
