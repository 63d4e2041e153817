//! All addresses.

use super::http::guard::guard;
use super::http::problem::Problem;
use super::{Service, api, pages};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use captionfleet_worker::telemetry::metrics::text_of;
use std::sync::Arc;

/// The service's routes.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .merge(api::router())
        .merge(pages::router())
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(missing)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(service.clone(), guard))
        .with_state(service)
}

async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text_of(service.metrics.registry()))
}

async fn missing() -> Problem {
    Problem::missing("there is nothing at this address; the API is described at /api/v1/openapi.json")
}

async fn not_allowed(_: HeaderMap) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this address does not answer this method; see Allow",
    )
}
