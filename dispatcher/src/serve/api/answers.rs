//! What the model says about one picture, now.

use super::item;
use crate::serve::Service;
use crate::serve::http::extract::Told;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::{media, uploads};
use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::Method;
use axum::routing::post;
use captionfleet_proto::job::Prompt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Largest body.
const MOST_BYTES: usize = 64 << 10;

/// A question about one picture.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The picture's or video's URI; either this or an upload.
    #[schemars(length(min = 1, max = 4096))]
    item: Option<String>,
    /// Time of the frame, if it is one of a video.
    frame_ms: Option<u32>,
    /// An uploaded picture.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    upload: Option<String>,
    /// What to ask; without it the picture is captioned.
    #[schemars(length(min = 1, max = 1024))]
    question: Option<String>,
}

/// An answer.
#[derive(Debug, Serialize, JsonSchema)]
struct Answer {
    /// What the model says.
    answer: String,
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
    vec![ask.json::<Question>().answers::<Answer>(200, "What the model says.")]
}

async fn answer(
    State(service): State<Arc<Service>>,
    Told(question): Told<Question>,
) -> Result<Json<Answer>, Problem> {
    let ground = &service.ground;
    let prompt = match question.question.as_deref().map(str::trim) {
        None => Prompt::Caption,
        Some("") => return Err(Problem::bad("question: it is empty")),
        Some(text) if text.len() > 4096 => return Err(Problem::bad("question: longer than 4096 bytes")),
        Some(text) => Prompt::Ask { question: text.to_owned() },
    };
    let asked = match (&question.item, &question.upload) {
        (Some(name), None) => {
            let rows = service.lookup.rows(ground, &item(name)?, question.frame_ms.map(u64::from)).await?;
            let row = rows.first().ok_or_else(|| Problem::missing("no row"))?;
            media::item_of(ground, row).await?
        }
        (None, Some(sha256)) => uploads::item(&ground.uri, sha256)?,
        _ => return Err(Problem::bad("name either an item or an upload")),
    };
    let row = service.questions.ask(ground, asked, prompt).await?;
    Ok(Json(Answer {
        answer: row.caption.unwrap_or_default(),
        tokens: row.tokens,
        mean_logprob: row.mean_logprob.filter(|value| value.is_finite()),
        bundle: row.bundle,
    }))
}
