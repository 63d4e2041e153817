//! Pictures to search by or to ask about.

use crate::serve::Service;
use crate::serve::http::extract::Sent;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::uploads;
use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode};
use axum::routing::post;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// Largest picture.
const MOST_BYTES: usize = 32 << 20;

/// An uploaded picture.
#[derive(Debug, Serialize, JsonSchema)]
struct Upload {
    /// Its name for searches and questions: the SHA-256 of its bytes.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    upload: String,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "Upload a picture of at most 32 MiB to search by or to ask about; it is kept for a day";
    let handler = post(upload).layer(DefaultBodyLimit::max(MOST_BYTES));
    let upload = Operation::new(Method::POST, "/uploads", "upload", summary, handler);
    vec![
        upload.bytes(&["application/octet-stream", "image/*"]).answers::<Upload>(201, "The picture is kept."),
    ]
}

async fn upload(
    State(service): State<Arc<Service>>,
    Sent(bytes): Sent,
) -> Result<(StatusCode, Json<Upload>), Problem> {
    let upload = uploads::keep(&*service.ground.archive, bytes).await?;
    Ok((StatusCode::CREATED, Json(Upload { upload })))
}
