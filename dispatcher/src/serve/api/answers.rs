//! What the model says about one picture, now.

use super::{asking, item};
use crate::serve::Service;
use crate::serve::http::extract::Told;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::{media, uploads};
use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::Method;
use axum::routing::post;
use captionfleet_proto::job::Question;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Largest body.
const MOST_BYTES: usize = 64 << 10;
/// Most questions at once: someone waits.
const MOST_QUESTIONS: usize = 64;

/// Questions about one picture.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["item"], "properties": {"item": {"type": "string"}, "upload": {"type": "null"}}},
    {"required": ["upload"], "properties": {"upload": {"type": "string"}, "item": {"type": "null"}}},
]))]
struct Asked {
    /// The picture's or video's URI; either this or an upload.
    #[schemars(length(min = 1, max = 4096))]
    item: Option<String>,
    /// Time of the frame, if it is one of a video.
    #[schemars(range(max = 4_294_967_295_u32))]
    frame_ms: Option<u32>,
    /// An uploaded picture.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    upload: Option<String>,
    /// What to ask; without it the picture is captioned.
    #[schemars(length(min = 1, max = 1024))]
    question: Option<String>,
    /// Answers to choose from: the likeliest is taken.
    #[serde(default)]
    #[schemars(length(max = 256))]
    choices: Vec<String>,
    /// More questions, as jobs have them.
    #[serde(default)]
    #[schemars(length(max = 64))]
    questions: Vec<Question>,
}

/// An answer.
#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    /// What the model says; of several questions each with its answer.
    answer: String,
    /// Question by question; empty for captions.
    answers: Vec<asking::Told>,
    /// The values of questions that have a name.
    fields: Option<serde_json::Map<String, serde_json::Value>>,
    /// Generated tokens.
    tokens: Option<u32>,
    /// Mean natural-log probability of them.
    mean_logprob: Option<f32>,
    /// The bundle that said it.
    bundle: Option<String>,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "Caption one picture, or ask a question about it; before any bulk work, and not kept";
    let handler = post(answer).layer(DefaultBodyLimit::max(MOST_BYTES));
    let ask = Operation::new(Method::POST, "/answers", "ask", summary, handler);
    vec![ask.json::<Asked>().answers::<Answer>(200, "What the model says.")]
}

async fn answer(
    State(service): State<Arc<Service>>,
    Told(question): Told<Asked>,
) -> Result<Json<Answer>, Problem> {
    let ground = &service.ground;
    if question.questions.len() > MOST_QUESTIONS {
        return Err(Problem::bad(format!("questions: more than {MOST_QUESTIONS}")));
    }
    let prompt = asking::prompt(question.question.as_deref(), &question.choices, &question.questions)?;
    let asked = match (&question.item, &question.upload) {
        (Some(name), None) => {
            let rows = service.lookup.rows(ground, &item(name)?, question.frame_ms.map(u64::from)).await?;
            let row = rows.first().ok_or_else(|| Problem::missing("no row"))?;
            media::item_of(ground, row).await?
        }
        (None, Some(sha256)) => uploads::kept(&*ground.archive, &ground.uri, sha256).await?,
        _ => return Err(Problem::bad("name either an item or an upload")),
    };
    let row = service.questions.ask(ground, asked, prompt).await?;
    Ok(Json(Answer {
        answer: row.caption.unwrap_or_default(),
        answers: row.answers.into_iter().flatten().map(asking::Told::from).collect(),
        fields: asking::values(row.fields.as_deref()),
        tokens: row.tokens,
        mean_logprob: row.mean_logprob.filter(|value| value.is_finite()),
        bundle: row.bundle,
    }))
}
