//! What every request passes before anyone looks at what it wants.

use super::problem::Problem;
use crate::serve::Service;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use captionfleet_proto::trace_context::TraceContext;
use captionfleet_worker::telemetry::spans::{self, KeyValue};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Span;

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(90);
/// What searches and changes cost, where other requests cost 1.
const DEAR: f64 = 10.0;

/// No script, style, picture or connection but our own; nobody may show these pages inside others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Counts, limits and checks a request, and adds what every answer carries.
pub async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = method_label(request.method());
    let open = service.metrics.begun(method, route.clone().unwrap_or_else(|| "other".to_owned()));
    let mut response = match admit(&service, peer, &request, started) {
        Ok(()) => {
            let span = span_of(&request, method, route.as_deref());
            spans::within(span, answer(request, next)).await
        }
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    open.answered(response.status().as_u16());
    response
}

async fn answer(request: Request, next: Next) -> Response {
    let response = match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("timeout", "this took too long and was given up").into_response(),
    };
    let status = response.status();
    spans::note(|| [KeyValue::new("http.response.status_code", i64::from(status.as_u16()))]);
    if status.is_server_error() {
        spans::failed(status.canonical_reason().unwrap_or("server error"));
    }
    response
}

/// The request's span, as part of the client's trace if it tells one. Pages and scrapes have none.
fn span_of(request: &Request, method: &'static str, route: Option<&str>) -> Span {
    let Some(route) = route.filter(|route| spans::is_on() && route.starts_with("/api/")) else {
        return Span::none();
    };
    let span = tracing::info_span!(
        target: spans::TARGET,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
    );
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let trace = header("traceparent").and_then(|parent| TraceContext::parse(parent, header("tracestate")));
    spans::continued(span, trace.as_ref())
}

fn admit(service: &Service, peer: SocketAddr, request: &Request, now: Instant) -> Result<(), Problem> {
    let (path, access) = (request.uri().path(), &service.access);
    let cost = if is_dear(request.method(), path) { DEAR } else { 1.0 };
    access.rate.take(peer.ip(), cost, now).map_err(Problem::too_many)?;
    access.check_origin(request.method(), request.headers())?;
    if is_open(path) { Ok(()) } else { access.check(request.headers()) }
}

/// Whether everyone may have it: pages have no data, and a session begins with a token.
fn is_open(path: &str) -> bool {
    path == "/api/v1/session" || path == "/healthz" || !(path.starts_with("/api/") || path == "/metrics")
}

/// Whether it makes a device work, reads the whole index, or is a guess at the token.
fn is_dear(method: &Method, path: &str) -> bool {
    [Method::POST, Method::DELETE].contains(method) || path == "/api/v1/search"
}

/// From a small set, whatever was sent.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::is_dear;
    use axum::http::Method;

    #[test]
    fn searches_and_changes_are_dear() {
        for (method, path) in [
            (Method::GET, "/api/v1/search"),
            (Method::POST, "/api/v1/answers"),
            (Method::POST, "/api/v1/session"),
            (Method::DELETE, "/api/v1/items"),
        ] {
            assert!(is_dear(&method, path), "{method} {path}");
        }
        for path in ["/api/v1/items", "/api/v1/pictures", "/"] {
            assert!(!is_dear(&Method::GET, path), "{path}");
        }
    }
}
