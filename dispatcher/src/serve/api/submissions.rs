//! Submitting a run.

use super::asking;
use crate::catalog::Source;
use crate::config::settings::WorkSettings;
use crate::serve::Service;
use crate::serve::desk::{Order, Phase, Stage, Submitted};
use crate::serve::http::extract::{Named, Told};
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::wish::Wish;
use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post};
use captionfleet_proto::job::{Question, RunId, Sampling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

/// Largest body.
const MOST_BYTES: usize = 1 << 20;
/// How long an answer waits for a submission to begin.
const BEGINNING: Duration = Duration::from_secs(10);

/// What to caption.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    /// Folders, files and s3://bucket/prefix that the service can read.
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 4096)))]
    sources: Vec<String>,
    /// Ask this about every picture instead of captioning it.
    #[schemars(length(min = 1, max = 1024))]
    question: Option<String>,
    /// Answers to choose from: the likeliest is taken.
    #[serde(default)]
    #[schemars(length(max = 256))]
    choices: Vec<String>,
    /// More questions about every picture, as jobs have them.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    questions: Vec<Question>,
    /// Longest caption in tokens.
    #[schemars(range(min = 1, max = 4096))]
    max_tokens: Option<u32>,
    /// Pictures per job; 64 if absent.
    #[schemars(range(min = 1, max = 10_000))]
    job_size: Option<u32>,
    /// Take only files with a picture's extension.
    #[serde(default)]
    pictures_only: bool,
    /// Also do again what failed before.
    #[serde(default)]
    retry_failed: bool,
    /// Which frames of videos become rows; a frame a second without near-identical ones if absent. Other frames than those of
    /// an earlier run are another question: its films are captioned again.
    sampling: Option<Sampling>,
    /// Keep captioned frames of videos as small pictures. If absent, those of films that are captioned now are kept; if true, films
    /// that are captioned already and whose frames were not kept are captioned again.
    thumbnails: Option<bool>,
}

/// A submission and how far it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Standing {
    /// Its name.
    id: String,
    /// When it was taken.
    submitted_at: String,
    /// Whether its jobs are held back.
    paused: bool,
    /// How far it is.
    #[serde(flatten)]
    stage: Stage,
}

pub(super) fn operations() -> Vec<Operation> {
    let of = |method, path, id, summary, handler: MethodRouter<Arc<Service>>| {
        Operation::new(method, path, id, summary, handler)
    };
    let submit = post(submit).layer(DefaultBodyLimit::max(MOST_BYTES));
    vec![
        of(
            Method::POST,
            "/submissions",
            "submit",
            "Caption what some sources have and the archive has not",
            submit,
        )
        .json::<Submission>()
        .answers::<Standing>(202, "Taken; it goes on by itself."),
        of(
            Method::GET,
            "/submissions",
            "listSubmissions",
            "Submissions since the service was started",
            get(list),
        )
        .answers::<Vec<Standing>>(200, "The latest first."),
        of(Method::GET, "/submissions/{id}", "getSubmission", "One submission", get(one))
            .answers::<Standing>(200, "How far it is."),
        of(
            Method::DELETE,
            "/submissions/{id}",
            "cancelSubmission",
            "Cancel a submission and its runs",
            delete(cancel),
        )
        .ends(204, "Cancelled; what workers have begun is still finished."),
    ]
}

async fn submit(
    State(service): State<Arc<Service>>,
    Told(submission): Told<Submission>,
) -> Result<impl IntoResponse, Problem> {
    let settings = settings(&service, &submission)?;
    let one = service.desk.submit(Order::Sources(Box::new(settings)))?;
    begun(&one).await?;
    let location = format!("/api/v1/submissions/{}", one.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Standing::from(&*one))))
}

/// Waits a while for a submission to begin: most do at once, and then the answer names the run, or says why there is none.
pub(super) async fn begun(one: &Submitted) -> Result<(), Problem> {
    drop(tokio::time::timeout(BEGINNING, one.begun_or_ended()).await);
    match one.stage() {
        Stage { phase: Phase::Failed, error: Some(error), .. } => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not_submitted", error))
        }
        _ => Ok(()),
    }
}

async fn list(State(service): State<Arc<Service>>) -> Json<Vec<Standing>> {
    Json(service.desk.list().iter().map(|one| Standing::from(&**one)).collect())
}

async fn one(
    State(service): State<Arc<Service>>,
    Named(id): Named<String>,
) -> Result<Json<Standing>, Problem> {
    Ok(Json(Standing::from(&*find(&service, &id)?)))
}

async fn cancel(
    State(service): State<Arc<Service>>,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    let one = find(&service, &id)?;
    service.desk.cancel_all(&one).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find(service: &Service, id: &str) -> Result<Arc<Submitted>, Problem> {
    RunId::new(id).map_err(|_| Problem::bad("id: not the name of a submission"))?;
    let one = service.desk.find(id);
    one.ok_or_else(|| Problem::missing(format!("there is no submission {id} since this service was started")))
}

fn settings(service: &Service, submission: &Submission) -> Result<WorkSettings, Problem> {
    let ground = &service.ground;
    if submission.sources.is_empty() || submission.sources.len() > 1000 {
        return Err(Problem::bad("sources: name 1 to 1000 of them"));
    }
    let mut sources = Vec::new();
    for text in &submission.sources {
        let source =
            Source::parse(OsStr::new(text)).map_err(|error| Problem::bad(format!("sources: {error}")))?;
        if !ground.sources.allow(&source) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "source_refused",
                format!(
                    "{text}: runs may be submitted from what --sources names only, and from what exists there"
                ),
            ));
        }
        sources.push(source);
    }
    let prompt = asking::prompt(submission.question.as_deref(), &submission.choices, &submission.questions)?;
    let sample = submission.sampling.unwrap_or_default();
    if let Some(problem) = sample.problem() {
        let detail = format!("sampling: {problem}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "sampling_refused", detail));
    }
    let within = |value: Option<u32>, most: u32, name: &str| match value {
        Some(value) if !(1..=most).contains(&value) => {
            Err(Problem::bad(format!("{name}: must be 1 to {most}")))
        }
        value => Ok(value),
    };
    Ok(WorkSettings {
        sources,
        archive: ground.uri.clone(),
        wish: Wish {
            prompt,
            max_tokens: within(submission.max_tokens, 4096, "max_tokens")?,
            adapter: None,
            embed: ground.embeds,
            bundle: ground.bundle.clone(),
            sample,
            thumbnails: submission.thumbnails.unwrap_or(false),
        },
        job_size: within(submission.job_size, 10_000, "job_size")?.unwrap_or(64) as usize,
        pictures_only: submission.pictures_only,
        retry_failed: submission.retry_failed,
        thumbnails: submission.thumbnails.unwrap_or(true),
        adapter: None,
        fleet: ground.settings.clone(),
    })
}

impl From<&Submitted> for Standing {
    fn from(one: &Submitted) -> Self {
        Self {
            id: one.id.clone(),
            submitted_at: one.submitted_at.to_string(),
            paused: one.is_paused(),
            stage: one.stage(),
        }
    }
}
