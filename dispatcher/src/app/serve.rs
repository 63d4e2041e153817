//! `dispatcher serve`: everything that the service needs, put together.

use super::stopping;
use crate::archive;
use crate::config::serve_args::ServeArgs;
use crate::config::settings;
use crate::config::{FleetSettings, UsageError};
use crate::exit::Ended;
use crate::fleet::{Fleet, Model};
use crate::index::Shelf;
use crate::output;
use crate::serve::desk::Desk;
use crate::serve::http::access::Access;
use crate::serve::http::listen;
use crate::serve::http::metrics::Metrics as HttpMetrics;
use crate::serve::http::rate::Rate;
use crate::serve::keeper::keep;
use crate::serve::lanes::{self, Lanes};
use crate::serve::lookup::Lookup;
use crate::serve::media::Media;
use crate::serve::members::Members;
use crate::serve::progress::Progress;
use crate::serve::questions::Questions;
use crate::serve::router::router;
use crate::serve::waiting::{self, Waiting};
use crate::serve::{Ground, Service, WATCHERS, sampling, uploads};
use crate::telemetry::Metrics;
use anyhow::Context as _;
use captionfleet_proto::storage::Stores;
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_worker::telemetry::scraped::tell_readiness;
use prometheus::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a service that is started waits for a broker that is not there yet.
const BROKER_PATIENCE: Duration = Duration::from_mins(5);
/// How often old uploads are looked for.
const TIDY: Duration = Duration::from_secs(3600);

/// Runs the command.
pub async fn run(args: ServeArgs) -> anyhow::Result<Ended> {
    let address = args.address()?;
    let token = args.token(address)?;
    let sources = args.rules(token.is_some())?;
    let uri = settings::archive(&args.archive)?;
    let settings = FleetSettings::new(&args.fleet);
    if settings.is_remote() && uri.is_local() {
        let reason =
            "with --broker the archive must be an s3:// location; name a bucket, or leave out --broker";
        return Err(UsageError::new(format!("--archive {uri}: {reason}")).into());
    }
    let management = args.management.of(&settings.broker)?;
    let stop = stopping::on_signal()?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen at {address}; choose another address with --listen"))?;
    let patient_stores = Stores::new(settings.storage.clone());
    let patient = archive::open(&patient_stores, &uri).await?;
    // Whoever looks at a page is told soon that the archive is away.
    let stores = Arc::new(Stores::new(settings.storage.brief()));
    let archive = stores.archive(&uri).await?;
    let model = match (settings.is_remote(), &settings.model) {
        (true, None) => None,
        _ => Some(Model::resolve(&settings, &patient_stores).await?),
    };
    let mut fleet = if settings.is_remote() {
        let connecting = Fleet::remote_within(BROKER_PATIENCE, &settings, stores);
        let Some(connected) = stop.run_until_cancelled(connecting).await else { return Ok(Ended::Well) };
        connected?
    } else {
        Fleet::embedded(&settings, stores).await?
    };
    let worker_metrics = WorkerMetrics::new();
    // A dispatcher whose workers are elsewhere shows no worker's metrics.
    let registry = if settings.is_remote() { Registry::new() } else { worker_metrics.registry().clone() };
    let metrics = Metrics::new(registry.clone()).context("declare the metrics")?;
    let ground = Arc::new(Ground {
        bundle: model.as_ref().map(Model::id),
        embeds: model.as_ref().is_none_or(|model| model.embedding_space().is_some()),
        is_demo: model.as_ref().is_some_and(|model| model.is_demo),
        shelf: Arc::new(Shelf::new(archive.clone(), &uri)),
        fleet: fleet.shared(),
        uri,
        archive,
        patient,
        patient_stores,
        settings,
        sources,
        price_per_hour: args.price.price_per_hour,
    });
    if let (Some(model), false) = (model, ground.settings.is_remote()) {
        if model.is_demo {
            output::remark(demo_model::NOTICE);
        }
        fleet.start_worker(model, worker_metrics);
    }
    let access = Access::new(token.as_deref(), Rate::new(args.rate));
    let http = HttpMetrics::new(registry).context("declare the metrics")?;
    let lanes = Lanes::new(management, http.registry()).context("declare the metrics")?;
    let waiting = Waiting::new(args.rule(), lanes, http.registry()).context("declare the metrics")?;
    let told = Told { metrics, http, waiting };
    let served = serve(&ground, listener, access, told, &stop);
    let outcome = tokio::select! {
        outcome = served => outcome,
        gone = fleet.worker_gone() => Err(gone),
    };
    stop.cancel();
    let closed = fleet.close().await;
    outcome?;
    closed?;
    Ok(Ended::Well)
}

/// What the service tells about itself.
struct Told {
    metrics: Metrics,
    http: HttpMetrics,
    waiting: Waiting,
}

async fn serve(
    ground: &Arc<Ground>,
    listener: TcpListener,
    access: Access,
    told: Told,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (index, keeper) = keep(ground.shelf.clone(), stop.clone()).context("start the indexer")?;
    let members = Arc::new(Members::default());
    let Told { metrics, http, waiting } = told;
    let readiness = Readiness::waiting_for(["broker"]);
    tell_readiness(http.registry(), readiness.clone());
    let desk = Desk::new(ground.clone(), metrics, readiness.clone(), members.clone(), stop.clone());
    let left = desk.left().await.context("look for runs to go on with")?;
    if !left.is_empty() {
        output::remark(format!("going on with {}", output::counted(left.len() as u64, "run")));
    }
    let token = if access.needs_token() { "with its token" } else { "for this machine alone" };
    let address = listener.local_addr()?;
    let service = Arc::new(Service {
        ground: ground.clone(),
        desk: desk.clone(),
        progress: Progress::default(),
        lookup: Lookup::default(),
        questions: Questions::new(&ground.fleet, members, http.registry()).context("declare the metrics")?,
        media: Media::default(),
        waiting,
        index,
        access,
        metrics: http,
        forgetting: Arc::default(),
        watchers: Arc::new(Semaphore::new(WATCHERS)),
        stop: stop.clone(),
    });
    output::line(format!("serving {} at http://{address} {token}", ground.uri));
    tokio::join!(
        listen::serve(listener, router(service.clone()), stop.clone()),
        tidy(ground, stop),
        tell_players(&desk),
        waiting::watch(&service, &readiness),
        lanes::watch(&service),
        sampling::watch(&service),
        desk.take_up(left)
    );
    desk.ended().await;
    service.questions.close().await;
    // The indexer ends within one batch; a panic in it was told already.
    drop(tokio::task::spawn_blocking(move || keeper.join()).await);
    Ok(())
}

/// Writes what earlier dispatchers and services have not come to.
async fn tell_players(desk: &Desk) {
    if let Err(error) = desk.write_owed_tracks().await {
        tracing::warn!(error = %format!("{error:#}"), "captions of finished videos may be missing");
    }
}

/// Removes old uploads now and then.
async fn tidy(ground: &Ground, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = uploads::tidy(&*ground.archive).await {
            tracing::warn!(%error, "old uploads stay for now");
        }
        tokio::select! {
            () = tokio::time::sleep(TIDY) => {}
            () = stop.cancelled() => {}
        }
    }
}
