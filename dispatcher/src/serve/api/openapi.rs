//! The document that describes all of it.

use super::operations as all;
use crate::serve::Service;
use crate::serve::http::openapi::document;
use crate::serve::http::operation::Operation;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use serde_json::Value;
use std::sync::Arc;

pub(super) fn operations() -> Vec<Operation> {
    let summary = "This document";
    let describe = Operation::new(Method::GET, "/openapi.json", "getOpenApi", summary, get(openapi));
    vec![describe.answers::<Value>(200, "An OpenAPI 3.1 document.")]
}

async fn openapi(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(document(&all(), service.access.needs_token()))
}
