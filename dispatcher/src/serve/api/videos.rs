//! Films for players: their bytes, and captions as a track.

use super::item;
use super::items::{ItemQuery, shown};
use crate::archive::TABLE_BYTES;
use crate::serve::Service;
use crate::serve::http::extract::Asked;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::media::{Film, Piece};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use captionfleet_proto::job::RunId;
use captionfleet_proto::layout::{self, Track};
use captionfleet_proto::rows::{Row, Status};
use captionfleet_proto::storage::StorageErrorKind;
use std::sync::Arc;

const TYPES: &[&str] =
    &["video/mp4", "video/webm", "video/ogg", "video/x-matroska", "application/octet-stream"];

pub(super) fn operations() -> Vec<Operation> {
    let film = "The film of a captioned frame, whole or a range of its bytes";
    let track =
        "The captions of the film of a captioned frame, as WebVTT; empty while the film is not finished";
    vec![
        Operation::new(Method::GET, "/films", "getFilm", film, get(film_bytes))
            .query::<ItemQuery>()
            .sends(200, "All of it.", TYPES)
            .sends(206, "The range asked for.", TYPES),
        Operation::new(Method::GET, "/tracks", "getTrack", track, get(captions)).query::<ItemQuery>().sends(
            200,
            "The captions.",
            &["text/vtt"],
        ),
    ]
}

async fn film_bytes(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Asked(query): Asked<ItemQuery>,
) -> Result<Response, Problem> {
    let rows =
        service.lookup.rows(&service.ground, &item(&query.item)?, query.frame_ms.map(u64::from)).await?;
    let row = rows.get(shown(&rows)).ok_or_else(|| Problem::missing("no row"))?;
    let film = Film::open(&service.ground, row).await?;
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = Piece::asked(asked, film.size)?;
    let (size, kind) = (film.size, film.kind);
    let piece = range.unwrap_or(Piece { start: 0, end: size });
    let mut response = Body::from_stream(film.read(piece)).into_response();
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(piece.end - piece.start));
    if range.is_some()
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {}-{}/{size}", piece.start, piece.end - 1))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

async fn captions(
    State(service): State<Arc<Service>>,
    Asked(query): Asked<ItemQuery>,
) -> Result<Response, Problem> {
    let item = item(&query.item)?;
    let rows = service.lookup.rows(&service.ground, &item, query.frame_ms.map(u64::from)).await?;
    let mut text = Bytes::from_static(b"WEBVTT\n");
    for run in told_by(&rows) {
        let key = layout::track(run, &item, Track::Captions);
        match service.ground.archive.get(&key, TABLE_BYTES).await {
            Ok(object) => {
                text = object.bytes;
                break;
            }
            Err(error) if error.kind() == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/vtt; charset=utf-8")], text).into_response())
}

/// The runs that may have a track of the film as it is played, by the rows of one of its frames, the newest first: those with
/// captions before those with answers.
fn told_by(rows: &[Row]) -> Vec<&RunId> {
    let Some(played) = rows.get(shown(rows)) else { return Vec::new() };
    let of_film = rows.iter().filter(|row| row.status == Status::Ok && row.sha256 == played.sha256);
    let (answers, captions): (Vec<&Row>, Vec<&Row>) = of_film.partition(|row| row.answers.is_some());
    let mut runs: Vec<&RunId> = Vec::new();
    for row in captions.into_iter().chain(answers) {
        if !runs.contains(&&row.run) {
            runs.push(&row.run);
        }
    }
    runs
}
