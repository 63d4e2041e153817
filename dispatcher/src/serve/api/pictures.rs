//! Pictures as JPEG files, small and large.

use super::item;
use crate::serve::Service;
use crate::serve::http::conditional::is_known;
use crate::serve::http::extract::Asked;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::media::{Jpeg, Size};
use crate::serve::uploads;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Which picture, how large.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PictureQuery {
    /// The picture's or video's URI; either this or an upload.
    #[schemars(length(min = 1, max = 4096))]
    item: Option<String>,
    /// Time of the frame, if it is one of a video.
    #[schemars(range(max = 4_294_967_295_u32))]
    frame_ms: Option<u32>,
    /// An uploaded picture.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    upload: Option<String>,
    /// `small` (at most 320 pixels a side; what happens otherwise) or `large` (1600).
    size: Option<SizeName>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SizeName {
    Small,
    Large,
}

pub(super) fn operations() -> Vec<Operation> {
    let summary = "A picture of the archive, or a frame that was kept";
    let picture = Operation::new(Method::GET, "/pictures", "getPicture", summary, get(picture));
    vec![
        picture
            .query::<PictureQuery>()
            .sends(200, "The picture, made small.", &["image/jpeg"])
            .ends(304, "It has not changed."),
    ]
}

async fn picture(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Asked(query): Asked<PictureQuery>,
) -> Result<Response, Problem> {
    let size = match query.size {
        Some(SizeName::Large) => Size::Large,
        Some(SizeName::Small) | None => Size::Small,
    };
    let (ground, media) = (&service.ground, &service.media);
    let jpeg = match (&query.item, &query.upload) {
        (Some(name), None) => {
            let row = service.lookup.row(ground, &item(name)?, query.frame_ms.map(u64::from)).await?;
            media.picture(ground, &row, size).await?
        }
        (None, Some(sha256)) => {
            uploads::item(&ground.uri, sha256)?;
            media.upload(ground, sha256, size).await?
        }
        _ => return Err(Problem::conflict("name either an item or an upload")),
    };
    Ok(answer(&headers, jpeg))
}

fn answer(headers: &HeaderMap, jpeg: Jpeg) -> Response {
    let tag = format!("\"{}\"", jpeg.tag);
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "image/jpeg")], jpeg.bytes).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=600"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
