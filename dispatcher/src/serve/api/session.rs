//! Signing in: a page exchanges the token for a session.

use crate::serve::Service;
use crate::serve::http::access::Access;
use crate::serve::http::extract::Told;
use crate::serve::http::operation::Operation;
use crate::serve::http::problem::Problem;
use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Largest body.
const MOST_BYTES: usize = 8 << 10;

/// The token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    /// As the service was started with it.
    #[schemars(length(min = 1, max = 4096))]
    token: String,
}

/// Whether one may ask.
#[derive(Debug, Serialize, JsonSchema)]
struct Session {
    /// Whether this service wants a token.
    needs_token: bool,
    /// Whether requests like this one are answered.
    signed_in: bool,
}

pub(super) fn operations() -> Vec<Operation> {
    let operation =
        |method, id, summary, handler| Operation::new(method, "/session", id, summary, handler).open();
    let create: MethodRouter<Arc<Service>> =
        axum::routing::post(begin).layer(DefaultBodyLimit::max(MOST_BYTES));
    vec![
        operation(Method::GET, "getSession", "Whether one is signed in", get(look))
            .answers::<Session>(200, "Whether one is."),
        operation(Method::POST, "beginSession", "Sign in: sets a cookie for half a day", create)
            .json::<Token>()
            .ends(204, "Signed in."),
        operation(Method::DELETE, "endSession", "Sign out", axum::routing::delete(end))
            .ends(204, "Signed out."),
    ]
}

async fn look(State(service): State<Arc<Service>>, headers: HeaderMap) -> Json<Session> {
    let access = &service.access;
    Json(Session { needs_token: access.needs_token(), signed_in: access.check(&headers).is_ok() })
}

async fn begin(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Told(token): Told<Token>,
) -> Result<impl IntoResponse, Problem> {
    let access = &service.access;
    if access.needs_token() && !access.is_token(token.token.trim()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "wrong_token",
            "this is not the token of this service",
        ));
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, access.cookie(&headers))]))
}

async fn end(headers: HeaderMap) -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, Access::no_cookie(&headers))])
}
