//! How many workers there should be.

use crate::serve::Service;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use crate::serve::waiting::Load;
use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use std::sync::Arc;

pub(super) fn operations() -> Vec<Operation> {
    let summary = "What waits for workers, for autoscalers";
    let scale = Operation::new(Method::GET, "/scale", "getScale", summary, get(scale));
    vec![scale.answers::<Load>(200, "What waits, and how many workers it is worth.")]
}

async fn scale(State(service): State<Arc<Service>>) -> Result<Json<Load>, Problem> {
    let load = service.waiting.load();
    let unknown =
        || Problem::unavailable("broker_unavailable", "the queues cannot be looked at now; ask again");
    load.map(Json).ok_or_else(unknown)
}
