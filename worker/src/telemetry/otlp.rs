//! Where spans go: to an OpenTelemetry collector, as protobuf over HTTP, if the environment names one.
//!
//! The variables are those of OpenTelemetry, read by its own libraries: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin,
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`. Spans are handed to a thread of their own
//! through a bounded queue, and are dropped when it is full: a collector that is slow or away costs spans, never work.

use captionfleet_proto::chain;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::WithHttpConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};

/// How long the end of the program waits for spans to be sent.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a collector may take where the environment does not say.
const PATIENCE: Duration = Duration::from_secs(10);
/// A collector says little.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The variables that turn tracing on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const SERVICE_NAME: Key = Key::from_static_str("service.name");

/// The export of spans. Dropping it sends what is left, within a few seconds.
#[derive(Debug)]
pub(super) struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// What the environment asks for: nothing unless it names a collector.
    ///
    /// # Errors
    /// Why what it asks for cannot be done, in one line with the remedy.
    pub(super) fn from_environment(service: &'static str) -> Result<Option<Self>, String> {
        if !is_wanted(variable)? {
            return Ok(None);
        }
        let reason = Arc::new(Mutex::new(None));
        let client = Client::new(Arc::clone(&reason));
        let inner = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client).build();
        let inner = inner.map_err(|error| format!("{error}; check the variables OTEL_EXPORTER_OTLP_…"))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service))
            .with_batch_exporter(Exporter { inner, reason, is_failing: AtomicBool::new(false) })
            .build();
        Ok(Some(Self { provider }))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("captionfleet")
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // What cannot be sent by now was told already.
        let _ = self.provider.shutdown_with_timeout(FAREWELL);
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn first(
    variable: &impl Fn(&str) -> Option<String>,
    names: [&'static str; 2],
) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// Whether spans are to be sent.
fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, String> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let wanted = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => false,
        Some("otlp") => true,
        None => first(&variable, ENDPOINTS).is_some(),
        Some(other) => {
            return Err(format!("OTEL_TRACES_EXPORTER is `{other}`; only otlp and none are known here"));
        }
    };
    match first(&variable, PROTOCOLS) {
        Some((name, protocol)) if wanted && protocol != "http/protobuf" => Err(format!(
            "{name} is `{protocol}`; only http/protobuf is spoken here, which collectors mostly take at port 4318"
        )),
        _ => Ok(wanted),
    }
}

/// Who makes the spans; a name from the environment goes before ours.
fn resource(service: &'static str) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().build();
    let is_named = found.get(&SERVICE_NAME).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(version);
    if is_named { builder.build() } else { builder.with_service_name(service).build() }
}

/// Tells a failure once, and its end; a batch that cannot be sent is dropped.
#[derive(Debug)]
struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    /// Why the latest request failed: the library keeps it to itself.
    reason: Arc<Mutex<Option<String>>>,
    is_failing: AtomicBool,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        match self.inner.export(batch).await {
            Ok(()) if self.is_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("spans reach the collector again");
            }
            Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = reason.unwrap_or_else(|| error.to_string());
                tracing::warn!(
                    error = reason,
                    "spans cannot be sent and are dropped until they can, work goes on; check \
                     OTEL_EXPORTER_OTLP_ENDPOINT and the collector"
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The HTTP client that the program has anyway. It blocks, on the exporter's own thread.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    reason: Arc<Mutex<Option<String>>>,
}

impl Client {
    fn new(reason: Arc<Mutex<Option<String>>>) -> Self {
        let timeout = first(&variable, TIMEOUTS).and_then(|(_, milliseconds)| milliseconds.parse().ok());
        let timeout = timeout.map_or(PATIENCE, Duration::from_millis);
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .build()
            .new_agent();
        Self { agent, reason }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.agent.run(Request::from_parts(head, &body[..]))?.into_parts();
        let answer = body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(head, answer.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (scheme, place) = (request.uri().scheme_str().unwrap_or("http"), request.uri().authority());
        // Whoever puts a password into the address does not want it in a log.
        let host = place.map_or_else(String::new, |place| match place.port() {
            Some(port) => format!("{}:{port}", place.host()),
            None => place.host().to_owned(),
        });
        let address = format!("{scheme}://{host}{}", request.uri().path());
        let sent = self.send(request);
        let reason = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("{address} answered {}", answer.status())),
            Err(error) => Some(format!("{address}: {}", chain(error))),
        };
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        Ok(sent?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(variables: &[(&str, &str)]) -> Result<bool, String> {
        is_wanted(|name| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_sent_unless_a_collector_is_named() {
        assert_eq!(wanted(&[]), Ok(false));
        assert_eq!(wanted(&[("OTEL_SERVICE_NAME", "captions")]), Ok(false));
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]), Ok(true));
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces")]), Ok(true));
        assert_eq!(wanted(&[("OTEL_TRACES_EXPORTER", "otlp")]), Ok(true));
    }

    #[test]
    fn the_usual_variables_turn_it_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert_eq!(wanted(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), Ok(false));
        assert_eq!(wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
    }

    #[test]
    fn what_cannot_be_done_is_said_with_the_remedy() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        let refused = wanted(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert!(refused.is_err_and(|why| why.contains("4318")));
        assert!(wanted(&[("OTEL_TRACES_EXPORTER", "zipkin")]).is_err_and(|why| why.contains("otlp")));
        assert_eq!(wanted(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Ok(false));
    }
}
