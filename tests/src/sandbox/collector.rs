//! An OpenTelemetry collector that keeps what it is sent: OTLP as protobuf over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode as SpanStatus};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct SentSpan {
    /// `service.name` of the program that made it.
    pub service: String,
    /// Hexadecimal, as in `traceparent`.
    pub trace: String,
    /// Hexadecimal, as in `traceparent`.
    pub id: String,
    /// The span above it; none for the root of a trace.
    pub parent: Option<String>,
    /// What it is called.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// What is noted about it, as text.
    pub attributes: BTreeMap<String, String>,
    /// Names of its events.
    pub events: Vec<String>,
    /// Why it did not end well.
    pub error: Option<String>,
}

impl SentSpan {
    /// A noted value; empty if there is none.
    #[must_use]
    pub fn value(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<SentSpan>>>,
    accept_loop: JoinHandle<()>,
}

impl Collector {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        let accept_loop = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let kept = Arc::clone(&kept);
                let service = hyper::service::service_fn(move |request| {
                    let kept = Arc::clone(&kept);
                    async move { Ok::<_, Infallible>(take(request, &kept).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { port, spans, accept_loop })
    }

    /// The address for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<SentSpan> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what arrived is as wanted.
    ///
    /// # Errors
    /// When it is not within `limit`; the message holds what arrived.
    pub async fn until(
        &self,
        limit: Duration,
        is_right: impl Fn(&[SentSpan]) -> bool,
    ) -> anyhow::Result<Vec<SentSpan>> {
        let deadline = Instant::now() + limit;
        loop {
            let spans = self.spans();
            if is_right(&spans) {
                return Ok(spans);
            }
            anyhow::ensure!(Instant::now() < deadline, "never as wanted: {spans:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accept_loop.abort();
    }
}

async fn take(request: Request<Incoming>, kept: &Mutex<Vec<SentSpan>>) -> Response<Full<Bytes>> {
    let answer = |status, body: Vec<u8>| {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::POST || request.uri().path() != "/v1/traces" {
        return answer(StatusCode::NOT_FOUND, Vec::new());
    }
    let Ok(body) = request.into_body().collect().await else {
        return answer(StatusCode::BAD_REQUEST, Vec::new());
    };
    let Ok(sent) = ExportTraceServiceRequest::decode(body.to_bytes()) else {
        return answer(StatusCode::BAD_REQUEST, Vec::new());
    };
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_of(sent));
    answer(StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

fn spans_of(sent: ExportTraceServiceRequest) -> Vec<SentSpan> {
    let mut spans = Vec::new();
    for from in sent.resource_spans {
        let resource = values(from.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let all = from.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.map(|span| read(span, service.clone())));
    }
    spans
}

fn read(span: Span, service: String) -> SentSpan {
    let failed = span.status.filter(|status| status.code == SpanStatus::Error as i32);
    SentSpan {
        service,
        trace: hex::encode(span.trace_id),
        id: hex::encode(span.span_id),
        parent: (!span.parent_span_id.is_empty()).then(|| hex::encode(span.parent_span_id)),
        name: span.name,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: values(span.attributes),
        events: span.events.into_iter().map(|event| event.name).collect(),
        error: failed.map(|status| status.message),
    }
}

fn values(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?)))).collect()
}
