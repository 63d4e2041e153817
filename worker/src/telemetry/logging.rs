//! Log lines: text on a terminal, JSON elsewhere, always to standard error; and the start of [tracing](super::spans).

use std::io::IsTerminal;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use super::otlp::Export;
use super::spans;

/// The variables that hold a filter, the first one set wins.
const FILTER_VARIABLES: [&str; 2] = ["CAPTIONFLEET_LOG", "RUST_LOG"];

/// Our own crates talk, the libraries below only when something is wrong. Errors of the broker's client are handled and
/// told by our supervisor, and a machine that is no cloud instance has no instance metadata.
const DEFAULT_FILTER: &str = "warn,lapin=off,aws_config=error,captionfleet_worker=info,captionfleet_dispatcher=info,\
                              captionfleet_proto=info,captionfleet_model=info,worker=info,dispatcher=info";

/// Beside the spans, log lines of these are part of a trace.
const TRACED: [&str; 4] =
    ["captionfleet_worker", "captionfleet_dispatcher", "captionfleet_proto", "captionfleet_model"];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text if standard error is a terminal, else JSON.
    #[default]
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{name}` is not a log format; use auto, text or json")),
        }
    }
}

/// What was started. Dropping it, at the end of the program, sends the spans that are left, within a few seconds.
#[derive(Debug)]
#[must_use = "spans are sent until it is dropped"]
pub struct Telemetry {
    _export: Option<Export>,
}

/// Starts logging for the whole process, and tracing where the environment asks for it; `service` is what the traces
/// call this program. A second call changes nothing.
pub fn init(format: LogFormat, service: &'static str) -> Telemetry {
    init_with_default(format, DEFAULT_FILTER, service)
}

/// As [`init`], with another filter for when the environment names none (e.g. a command that draws a progress bar).
pub fn init_with_default(format: LogFormat, default_filter: &str, service: &'static str) -> Telemetry {
    let (filter, problem) = filter(default_filter);
    let (export, refused) = match Export::from_environment(service) {
        Ok(export) => (export, None),
        Err(refused) => (None, Some(refused)),
    };
    let traced = export.as_ref().map(|export| traced(export.tracer()));
    let filter = filter.and(filter_fn(|metadata| !is_span_of_trace(metadata)));
    let layers: Vec<_> = traced.into_iter().chain([lines(format).with_filter(filter).boxed()]).collect();
    // Fails only if logging was started before, and then the first start counts.
    if let (Ok(()), Some(export)) = (tracing_subscriber::registry().with(layers).try_init(), &export) {
        spans::begin(export.tracer());
    }
    if let Some(problem) = problem {
        tracing::warn!("{problem}; the default filter is used");
    }
    if let Some(refused) = refused {
        tracing::warn!("{refused}; no spans are sent");
    }
    Telemetry { _export: export }
}

/// The layer that writes log lines.
fn lines<S: tracing::Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
) -> Box<dyn Layer<S> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        layer.with_ansi(terminal).boxed()
    } else {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    }
}

fn is_span_of_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == spans::TARGET
}

/// The layer that makes spans of a trace, with our log lines as their events.
fn traced(tracer: SdkTracer) -> Box<dyn Layer<Registry> + Send + Sync> {
    let is_line = |metadata: &Metadata<'_>| {
        metadata.is_event() && TRACED.iter().any(|name| metadata.target().starts_with(name))
    };
    let filter = filter_fn(move |metadata| {
        *metadata.level() <= Level::INFO && (is_span_of_trace(metadata) || is_line(metadata))
    });
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_context_activation(true)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        // What goes wrong on the way is told as an event; whether a span ended well is said where it ends.
        .with_error_events_to_status(false)
        .with_error_events_to_exceptions(false)
        .with_filter(filter.with_max_level_hint(LevelFilter::INFO))
        .boxed()
}

fn filter(default_filter: &str) -> (EnvFilter, Option<String>) {
    let named = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|value| !value.trim().is_empty())?)));
    let Some((name, directives)) = named else {
        return (EnvFilter::new(default_filter), None);
    };
    match EnvFilter::try_new(&directives) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(default_filter), Some(format!("{name} is not a log filter: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_one() {
        assert!(EnvFilter::try_new(DEFAULT_FILTER).is_ok());
    }

    #[test]
    fn formats_have_names() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("yaml".parse::<LogFormat>().is_err());
    }
}
