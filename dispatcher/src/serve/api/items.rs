//! One picture or frame: what the archive knows of it.

use super::{asking, item, name};
use crate::forget::{self, Forgotten, Wanted};
use crate::serve::Service;
use crate::serve::http::extract::Asked;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::{delete, get};
use captionfleet_proto::rows::{Row, Status};
use captionfleet_worker::video::is_video_name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Which picture or frame.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemQuery {
    /// The picture's or video's URI.
    #[schemars(length(min = 1, max = 4096))]
    pub(super) item: String,
    /// Time of the frame, if it is one of a video.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub(super) frame_ms: Option<u32>,
}

/// The record of a picture or frame.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Record {
    /// Its URI.
    item: String,
    /// The end of its name, for people.
    name: String,
    /// Time of the frame in a video.
    frame_ms: Option<u64>,
    /// How long that frame stands for.
    span_ms: Option<u64>,
    /// Whether it is a frame of a film that can be played.
    film: bool,
    /// SHA-256 of the bytes.
    sha256: Option<String>,
    /// Width in pixels.
    width: Option<u32>,
    /// Height in pixels.
    height: Option<u32>,
    /// `ok`, `failed` or `skipped`.
    status: &'static str,
    /// Why it failed or was skipped.
    error_code: Option<String>,
    /// The same, for people.
    error_message: Option<String>,
    /// How often its job was tried.
    attempts: u32,
    /// The caption or answer.
    caption: Option<String>,
    /// Generated tokens.
    tokens: Option<u32>,
    /// Mean natural-log probability of them.
    mean_logprob: Option<f32>,
    /// Why generation ended.
    stop_reason: Option<String>,
    /// Which space its embedding lies in, if it has one.
    embedding_space: Option<String>,
    /// The bundle that made the row.
    bundle: Option<String>,
    /// The run.
    run: String,
    /// The job.
    job: String,
    /// When the row was made.
    finished_at: String,
    /// Rows of this item, this one included: of other prompts, models, bytes or times.
    rows: usize,
    /// What became of it when it was last tried, if that failed after this row was made.
    failed_since: Option<FailedSince>,
    /// What runs with questions said of it, the newest first.
    answered: Vec<Answered>,
}

/// A later row that failed.
#[derive(Debug, Serialize, JsonSchema)]
struct FailedSince {
    /// Why.
    error_code: Option<String>,
    /// The same, for people.
    error_message: Option<String>,
    /// The run.
    run: String,
    /// When.
    finished_at: String,
}

/// Runs whose answers are told.
const MOST_ANSWERED: usize = 50;

/// What one run said.
#[derive(Debug, Serialize, JsonSchema)]
struct Answered {
    /// The run.
    run: String,
    /// Names what was asked: the row's `prompt_hash`.
    asked: String,
    /// Question by question.
    answers: Vec<asking::Told>,
    /// The values of questions that have a name.
    fields: Option<serde_json::Map<String, serde_json::Value>>,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "The newest caption of a picture or frame, and what was answered about it";
    let get_item = Operation::new(Method::GET, "/items", "getItem", summary, get(record));
    let summary = "Remove what the archive says of a picture or film; the picture itself stays where it is";
    let forget_item = Operation::new(Method::DELETE, "/items", "forgetItem", summary, delete(forget));
    vec![
        get_item.query::<ItemQuery>().answers::<Record>(200, "The row, without its embedding."),
        forget_item.query::<ForgetQuery>().answers::<Forgotten>(200, "What was removed."),
    ]
}

/// What to remove.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    /// The picture's or video's URI; of a video all frames.
    #[schemars(length(min = 1, max = 4096))]
    item: String,
}

async fn forget(
    State(service): State<Arc<Service>>,
    Asked(query): Asked<ForgetQuery>,
) -> Result<Json<Forgotten>, Problem> {
    let item = item(&query.item)?;
    let wanted = [Wanted::Item(item.clone())].into();
    let ground = service.ground.clone();
    // Who leaves before its turn has changed nothing.
    let turn = service.forgetting.clone().lock_owned().await;
    // On a thread of its own: a client that leaves in the middle leaves nothing half done.
    let runtime = Handle::current();
    let forgetting = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(forget::forget(&ground.shelf, wanted, false))
    });
    let forgotten = match forgetting.await {
        Ok(Ok(forgotten)) => forgotten,
        Ok(Err(error)) => return Err(Problem::unavailable("not_forgotten", crate::exit::line(&error))),
        Err(_) => return Err(Problem::unavailable("ending", "this service is being stopped")),
    };
    service.lookup.look_again().await;
    if forgotten.rows == 0 {
        return Err(Problem::missing(format!("the archive has no row for {item}")));
    }
    Ok(Json(forgotten))
}

async fn record(
    State(service): State<Arc<Service>>,
    Asked(query): Asked<ItemQuery>,
) -> Result<Json<Record>, Problem> {
    let rows =
        service.lookup.rows(&service.ground, &item(&query.item)?, query.frame_ms.map(u64::from)).await?;
    let count = rows.len();
    let answered = answered(&rows);
    let shown = shown(&rows);
    let failed_since = rows[..shown].first().filter(|row| row.status == Status::Failed).map(|row| {
        let (error_code, error_message) = (row.error_code.clone(), row.error_message.clone());
        FailedSince {
            error_code,
            error_message,
            run: row.run.to_string(),
            finished_at: row.finished_at.to_string(),
        }
    });
    let row = rows.into_iter().nth(shown).ok_or_else(|| Problem::missing("no row"))?;
    Ok(Json(Record { rows: count, answered, failed_since, ..Record::from(row) }))
}

/// Which of an item's rows, the newest first, is told: the newest caption of what was read last; without any caption the newest
/// answer, without either the newest row.
pub(super) fn shown(rows: &[Row]) -> usize {
    let Some(last) = rows.iter().position(|row| row.status == Status::Ok) else { return 0 };
    let is_caption =
        |row: &Row| row.status == Status::Ok && row.answers.is_none() && row.sha256 == rows[last].sha256;
    rows.iter().position(is_caption).unwrap_or(last)
}

/// What each run said, the newest first; an answer given again by the same run counts once.
fn answered(rows: &[Row]) -> Vec<Answered> {
    let mut answered: Vec<Answered> = Vec::new();
    for row in rows {
        let (run, asked) = (row.run.to_string(), &row.prompt_hash);
        if row.answers.is_none() || answered.iter().any(|known| known.run == run && known.asked == *asked) {
            continue;
        }
        let answers = row.answers.iter().flatten().cloned().map(asking::Told::from).collect();
        answered.push(Answered {
            run,
            asked: asked.clone(),
            answers,
            fields: asking::values(row.fields.as_deref()),
        });
        if answered.len() == MOST_ANSWERED {
            break;
        }
    }
    answered
}

impl From<Row> for Record {
    fn from(row: Row) -> Self {
        Self {
            name: name(row.item.as_str()),
            film: row.frame_ms.is_some() && is_video_name(row.item.as_str()),
            item: row.item.to_string(),
            frame_ms: row.frame_ms,
            span_ms: row.span_ms,
            sha256: row.sha256,
            width: row.width,
            height: row.height,
            status: row.status.as_str(),
            error_code: row.error_code,
            error_message: row.error_message,
            attempts: row.attempts,
            caption: row.caption,
            tokens: row.tokens,
            mean_logprob: row.mean_logprob.filter(|value| value.is_finite()),
            stop_reason: row.stop_reason,
            embedding_space: row.embedding_space,
            bundle: row.bundle,
            run: row.run.to_string(),
            job: row.job.to_string(),
            finished_at: row.finished_at.to_string(),
            rows: 1,
            failed_since: None,
            answered: Vec::new(),
        }
    }
}
