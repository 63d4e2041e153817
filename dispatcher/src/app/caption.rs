//! `dispatcher caption`: plan, do it, report.

use super::indexing::keep_up;
use super::stopping;
use crate::conduct::{Submission, Way};
use crate::config::UsageError;
use crate::config::settings::{WorkSettings, admin_address};
use crate::config::work_args::CaptionArgs;
use crate::exit::Ended;
use crate::fleet::Fleet;
use crate::ledger::Unwatched;
use crate::output;
use crate::prepare::{Prepared, prepare};
use crate::progress::Display;
use crate::publish::Gate;
use crate::report::Report;
use crate::submission;
use crate::telemetry::Metrics;
use anyhow::Context as _;
use captionfleet_proto::storage::Stores;
use captionfleet_worker::telemetry::Metrics as WorkerMetrics;
use captionfleet_worker::telemetry::admin::{self, AdminAddr};
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_worker::telemetry::spans;
use prometheus::Registry;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How a submission is run.
pub struct Manner {
    /// Publish and leave.
    pub detach: bool,
    /// Keep the search index up to date.
    pub index: bool,
    /// Where metrics are served.
    pub admin: AdminAddr,
    /// What the user sees meanwhile.
    pub display: Display,
    /// Cancelled when the user wants to stop.
    pub stop: CancellationToken,
}

/// Runs the command.
pub async fn run(args: CaptionArgs) -> anyhow::Result<Ended> {
    let settings = WorkSettings::new(&args.work)?;
    if args.detach && !settings.fleet.is_remote() {
        let reason = "--detach needs --broker: without one the work is done by this process";
        return Err(UsageError::new(reason).into());
    }
    let manner = Manner {
        detach: args.detach,
        index: !args.no_index,
        admin: admin_address(&args.admin_addr)?,
        display: Display::choose(args.output.quiet),
        stop: stopping::on_signal()?,
    };
    let mut report = caption(&settings, &manner).await?;
    report.bill = report.rows.effort.bill(report.rows.ok, args.work.price.price_per_hour);
    if args.output.json {
        output::json(&report)?;
    } else {
        output::line(report.text());
    }
    if report.interrupted {
        manner.display.remark("stopped; run the same command again to go on where it stopped");
    } else if !report.dead_jobs.is_empty() {
        manner.display.remark(if settings.fleet.is_remote() {
            "jobs were given up: remove the cause, then `dispatcher retry` publishes them again"
        } else {
            "jobs were given up: remove the cause, then run the same command again"
        });
    }
    let left_alone = report.detached && !report.interrupted;
    let well = (report.complete || left_alone) && !(args.strict && report.rows.failed_total() > 0);
    Ok(if well { Ended::Well } else { Ended::Incomplete })
}

/// Captions everything that `settings` name, as one trace.
pub async fn caption(settings: &WorkSettings, manner: &Manner) -> anyhow::Result<Report> {
    spans::within(submission_span(settings), submit(settings, manner)).await
}

/// The root of a submission's trace.
pub(super) fn submission_span(settings: &WorkSettings) -> tracing::Span {
    tracing::info_span!(target: spans::TARGET, "submission", archive = %settings.archive)
}

async fn submit(settings: &WorkSettings, manner: &Manner) -> anyhow::Result<Report> {
    let stores = Arc::new(Stores::new(settings.fleet.storage.clone()));
    // A broker that is down is noticed before anything is listed, let alone written.
    let mut fleet = if settings.fleet.is_remote() {
        Fleet::remote(&settings.fleet, stores.clone()).await?
    } else {
        Fleet::embedded(&settings.fleet, stores.clone()).await?
    };
    let prepared = tokio::select! {
        prepared = prepare(settings, &stores, manner.display) => prepared,
        () = manner.stop.cancelled() => Err(anyhow::anyhow!("stopped before anything was begun")),
    };
    let outcome = match prepared {
        Ok(prepared) => work(settings, manner, &mut fleet, prepared).await,
        Err(error) => Err(error),
    };
    let closed = fleet.close().await;
    let report = outcome?;
    closed?;
    Ok(report)
}

/// Does what was planned.
pub(super) async fn work(
    settings: &WorkSettings,
    manner: &Manner,
    fleet: &mut Fleet,
    mut prepared: Prepared,
) -> anyhow::Result<Report> {
    let worker_metrics = WorkerMetrics::new();
    // A dispatcher whose workers are elsewhere shows no worker's metrics.
    let registry =
        if settings.fleet.is_remote() { Registry::new() } else { worker_metrics.registry().clone() };
    let way = Way {
        detach: manner.detach,
        by_service: false,
        display: manner.display,
        stop: manner.stop.clone(),
        metrics: Metrics::new(registry).context("declare the metrics")?,
        readiness: Readiness::waiting_for(["broker"]),
        gate: Arc::new(Gate::open()),
        watcher: Arc::new(Unwatched),
    };
    let (archive, is_empty) = (prepared.archive.clone(), prepared.plan.is_empty());
    let model = prepared.model.take();
    prepared.shape = model.as_ref().and_then(crate::fleet::Model::embedding_shape);
    let sources = settings.sources.iter().map(ToString::to_string).collect();
    let mut submission = Submission { settings, sources, way: &way, fleet, prepared };
    let mut report = submission.report();
    if is_empty {
        report.tracks = submission.track_writer().write_owed(&submission.prepared.films).await;
        return Ok(report);
    }
    let admin = admin::serve(manner.admin, way.metrics.registry().clone(), way.readiness.clone()).await?;
    if let Some(address) = admin.local_addr.filter(|_| !manner.detach) {
        manner.display.remark(format!("metrics at http://{address}/metrics"));
    }
    if let Some(model) = model.filter(|_| !settings.fleet.is_remote()) {
        submission.fleet.start_worker(model, worker_metrics);
    }
    if manner.index && !manner.detach {
        let last = CancellationToken::new();
        let indexing = keep_up(archive, &settings.archive, last.clone(), manner.display);
        let working = async {
            let outcome = both(&mut submission, &mut report).await;
            last.cancel();
            outcome
        };
        tokio::join!(working, indexing).0?;
    } else {
        both(&mut submission, &mut report).await?;
    }
    Ok(report)
}

async fn both(submission: &mut Submission<'_>, report: &mut Report) -> anyhow::Result<()> {
    for run in &submission.prepared.plan.continued {
        submission::wanted_again(&*submission.prepared.archive, &run.manifest.run).await?;
    }
    let Some(runs) = submission.begin().await? else {
        report.interrupted = true;
        return Ok(());
    };
    submission.execute(runs, report).await
}
