//! What failed in a run, item by item.

use super::{name, page, run_id};
use crate::serve::Service;
use crate::serve::http::extract::{Asked, Named};
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use captionfleet_proto::rows::Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which of the failed items.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FailuresQuery {
    /// Only those with this code.
    #[schemars(length(max = 100))]
    code: Option<String>,
    /// Items to leave out.
    #[schemars(range(max = 1_000_000))]
    offset: Option<u32>,
    /// Items to show, 1 to 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
}

/// One failed item.
#[derive(Debug, Serialize, JsonSchema)]
struct Failure {
    /// Its URI.
    item: String,
    /// The end of its name, for people.
    name: String,
    /// Time of the frame, or where the segment begins, in a video.
    frame_ms: Option<u64>,
    /// The code.
    code: String,
    /// Why.
    message: String,
    /// Whether its bytes were read, so that there may be a picture to show.
    has_bytes: bool,
    /// When.
    finished_at: String,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "The failed items of a run";
    let failures = Operation::new(Method::GET, "/runs/{run}/failures", "listFailures", summary, get(list));
    vec![failures.query::<FailuresQuery>().answers::<Vec<Failure>>(200, "Some of them.")]
}

async fn list(
    State(service): State<Arc<Service>>,
    Named(run): Named<String>,
    Asked(query): Asked<FailuresQuery>,
) -> Result<Json<Vec<Failure>>, Problem> {
    let (offset, limit) = (query.offset.unwrap_or(0), query.limit.unwrap_or(50));
    page(offset, limit)?;
    let wanted = query.code.as_deref().filter(|code| !code.is_empty());
    if wanted.is_some_and(|code| code.chars().count() > 100) {
        return Err(Problem::bad("code: longer than 100 characters"));
    }
    let run = run_id(&run)?;
    let ground = &service.ground;
    let standing = service.progress.look(&*ground.archive, &run).await?;
    let (mut left_out, mut failures) = (0, Vec::new());
    for key in &standing.failed {
        for row in service.lookup.part(ground, key).await?.iter() {
            let code = row.error_code.as_deref().unwrap_or_default();
            if row.status != Status::Failed || wanted.is_some_and(|wanted| wanted != code) {
                continue;
            }
            if left_out < offset as usize {
                left_out += 1;
                continue;
            }
            failures.push(Failure {
                item: row.item.to_string(),
                name: name(row.item.as_str()),
                frame_ms: row.frame_ms,
                code: code.to_owned(),
                message: row.error_message.clone().unwrap_or_default(),
                has_bytes: row.sha256.is_some() && row.frame_ms.is_none(),
                finished_at: row.finished_at.to_string(),
            });
            if failures.len() == limit as usize {
                return Ok(Json(failures));
            }
        }
    }
    Ok(Json(failures))
}
