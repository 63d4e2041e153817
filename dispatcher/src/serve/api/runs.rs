//! The runs of the archive: how far they are, and what is done with them.

use super::submissions::begun;
use super::{page, run_id};
use crate::archive;
use crate::bill::Bill;
use crate::exit;
use crate::serve::Service;
use crate::serve::desk::GivenUp;
use crate::serve::http::extract::{Asked, Named};
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::progress::{Marks, marks};
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use captionfleet_proto::job::RunId;
use captionfleet_proto::manifest::RunManifest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    /// Runs to leave out.
    #[schemars(range(max = 1_000_000))]
    offset: Option<u32>,
    /// Runs to show, 1 to 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
}

/// Some runs.
#[derive(Debug, Serialize, JsonSchema)]
struct Runs {
    /// The latest first.
    runs: Vec<Summary>,
    /// How many there are.
    total: usize,
    /// Manifests that cannot be read.
    damaged: Vec<String>,
}

/// What is happening to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunState {
    /// Every job has its part.
    Finished,
    /// This service hands out its jobs.
    Running,
    /// This service holds its jobs back.
    Paused,
    /// Workers drop its jobs.
    Cancelled,
    /// It is not finished, and this service does not publish it: someone else may.
    Unfinished,
}

/// A run in few words.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct Summary {
    /// Its name.
    run: String,
    /// When it was planned.
    created_at: String,
    /// Its sources.
    source: Vec<String>,
    /// What is asked, if it is not captions.
    question: Option<String>,
    /// Items.
    items: u64,
    /// Jobs.
    jobs: u64,
    /// Jobs with a part.
    jobs_done: u64,
    /// What is happening to it.
    state: RunState,
}

/// A run and its rows.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct Details {
    #[serde(flatten)]
    summary: Summary,
    /// Rows with a caption or answer.
    ok: u64,
    /// Failed rows by code.
    failed: BTreeMap<String, u64>,
    /// Skipped rows.
    skipped: u64,
    /// Frames of videos that were looked at.
    frames_seen: Option<u64>,
    /// Those that have a row; the others were near-identical to one that has.
    frames_kept: Option<u64>,
    /// Parts that cannot be read.
    damaged: u64,
    /// Pictures and frames per second, lately.
    items_per_second: Option<f64>,
    /// Seconds to go, about.
    eta_seconds: Option<f64>,
    /// What it took and cost so far, as far as its rows tell.
    bill: Option<Bill>,
    /// Jobs that were given up, as far as this service heard of them.
    given_up: Vec<GivenUp>,
    /// What people should know.
    remarks: Vec<String>,
}

pub(super) fn operations() -> Vec<Operation> {
    let act = |path, id, summary, handler| {
        Operation::new(Method::POST, path, id, summary, handler).ends(204, "Done.")
    };
    vec![
        Operation::new(
            Method::GET,
            "/runs",
            "listRuns",
            "The runs of the archive, the latest first",
            get(list),
        )
        .query::<RunsQuery>()
        .answers::<Runs>(200, "Some of them."),
        Operation::new(
            Method::GET,
            "/runs/{run}",
            "getRun",
            "One run and its rows by what became of them",
            get(one),
        )
        .answers::<Details>(200, "How far it is."),
        act(
            "/runs/{run}/pause",
            "pauseRun",
            "Hold a run's jobs back; what workers have begun is finished",
            post(pause),
        ),
        act(
            "/runs/{run}/resume",
            "resumeRun",
            "Go on with a run that was paused, cancelled or left",
            post(resume),
        ),
        act(
            "/runs/{run}/cancel",
            "cancelRun",
            "Cancel a run: workers drop the jobs that they have not begun",
            post(cancel),
        ),
        act(
            "/runs/{run}/retry",
            "retryRun",
            "Do again what failed in a run, and what was given up",
            post(retry),
        ),
    ]
}

async fn list(
    State(service): State<Arc<Service>>,
    Asked(query): Asked<RunsQuery>,
) -> Result<Json<Runs>, Problem> {
    let (offset, limit) = (query.offset.unwrap_or(0), query.limit.unwrap_or(50));
    page(offset, limit)?;
    let store = &*service.ground.archive;
    let (runs, damaged) = service.progress.runs(store).await?;
    let total = runs.len();
    let shown = runs.into_iter().rev().skip(offset as usize).take(limit as usize);
    let mut summaries = Vec::new();
    for (manifest, marks) in shown {
        let done = archive::parts(store, Some(&manifest.run)).await?;
        let done = done.values().map(|parts| parts.len() as u64).sum();
        summaries.push(summary(&service, &manifest, marks, done));
    }
    let damaged = damaged.into_iter().map(|error| exit::line(&error.into())).collect();
    Ok(Json(Runs { runs: summaries, total, damaged }))
}

async fn one(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<Json<Details>, Problem> {
    Ok(Json(details(&service, &run_id(&run)?).await?))
}

async fn pause(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<StatusCode, Problem> {
    let manifest = manifest(&service, &run_id(&run)?).await?;
    check_unfinished(&service, &manifest, "pause").await?;
    service.desk.pause(&manifest.run).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resume(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<StatusCode, Problem> {
    let manifest = manifest(&service, &run_id(&run)?).await?;
    begun(&*service.desk.resume(manifest).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn cancel(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<StatusCode, Problem> {
    let manifest = manifest(&service, &run_id(&run)?).await?;
    check_unfinished(&service, &manifest, "cancel").await?;
    service.desk.cancel(&manifest.run).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn retry(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
) -> Result<StatusCode, Problem> {
    let manifest = manifest(&service, &run_id(&run)?).await?;
    if service.desk.working_on(&manifest.run).is_some() {
        return Err(Problem::conflict(format!("run {run} is being worked on; wait until it has ended")));
    }
    let standing = service.progress.look(&*service.ground.archive, &manifest.run).await?;
    if standing.failed.is_empty() && standing.jobs_done >= manifest.jobs {
        return Err(Problem::conflict(format!("nothing failed in run {run}: there is nothing to do again")));
    }
    begun(&*service.desk.retry(manifest, standing.failed).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses to `act` upon a run of which everything is done.
async fn check_unfinished(service: &Service, manifest: &RunManifest, act: &str) -> Result<(), Problem> {
    let standing = service.progress.look(&*service.ground.archive, &manifest.run).await?;
    if standing.jobs_done < manifest.jobs {
        return Ok(());
    }
    Err(Problem::conflict(format!("run {} is finished: there is nothing to {act}", manifest.run)))
}

async fn manifest(service: &Service, run: &RunId) -> Result<RunManifest, Problem> {
    let missing = |problem: Problem| match problem.status() {
        StatusCode::NOT_FOUND => Problem::missing(format!("the archive has no run {run}")),
        _ => problem,
    };
    archive::manifest(&*service.ground.archive, run).await.map_err(|error| missing(error.into()))
}

fn summary(service: &Service, manifest: &RunManifest, marks: Marks, jobs_done: u64) -> Summary {
    let working = service.desk.working_on(&manifest.run);
    let state = match working {
        _ if jobs_done >= manifest.jobs => RunState::Finished,
        _ if marks.cancelled => RunState::Cancelled,
        Some(one) if one.is_paused() => RunState::Paused,
        Some(_) => RunState::Running,
        None if marks.paused => RunState::Paused,
        None => RunState::Unfinished,
    };
    Summary {
        run: manifest.run.to_string(),
        created_at: manifest.created_at.to_string(),
        source: manifest.source.clone(),
        question: manifest.prompt.in_words(),
        items: manifest.items,
        jobs: manifest.jobs,
        jobs_done,
        state,
    }
}

/// Everything about one run.
pub(super) async fn details(service: &Service, run: &RunId) -> Result<Details, Problem> {
    let manifest = manifest(service, run).await?;
    let store = &*service.ground.archive;
    let (standing, marks) = tokio::join!(service.progress.look(store, run), marks(store, run));
    let standing = standing?;
    let summary = summary(service, &manifest, marks?, standing.jobs_done);
    let left = manifest.jobs.saturating_sub(standing.jobs_done);
    let rate = standing.rate.filter(|rate| *rate > 0.0 && summary.state == RunState::Running);
    // Jobs tell better than items how much is left of videos.
    let items_left = manifest.items as f64 * left as f64 / manifest.jobs.max(1) as f64;
    let stages: Vec<_> = service.desk.list().iter().map(|one| one.stage()).collect();
    let ours = || stages.iter().filter(|stage| stage.runs.iter().any(|one| one == run.as_str()));
    let given_up = ours().flat_map(|stage| &stage.given_up).filter(|job| job.run == run.as_str());
    let frames = standing.tally.frames;
    Ok(Details {
        ok: standing.tally.ok,
        failed: standing.tally.failed,
        skipped: standing.tally.skipped,
        frames_seen: frames.map(|frames| frames.seen),
        frames_kept: frames.map(|frames| frames.kept),
        damaged: standing.damaged,
        items_per_second: rate,
        eta_seconds: rate.map(|rate| items_left / rate),
        bill: standing.tally.effort.bill(standing.tally.ok, service.ground.price_per_hour),
        given_up: given_up.cloned().collect(),
        remarks: ours().flat_map(|stage| stage.remarks.iter().chain(&stage.error)).cloned().collect(),
        summary,
    })
}

impl Details {
    /// Whether nothing is going to happen to it by itself.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.summary.state, RunState::Finished | RunState::Cancelled)
    }
}
