//! Spans: the way of a job, from its submission to its row, as one trace that an OpenTelemetry collector puts together.
//!
//! They have a target of their own, [`TARGET`], which log lines never show. Unless the environment names a collector
//! (`otlp.rs`) nobody listens to it: `info_span!` then costs one comparison and holds nothing, and everything here returns
//! at once.
//!
//! The trace travels in the headers of a message ([`TraceContext`]): [`outgoing`] takes it along, [`continued`] goes on with
//! it. What came with a message is passed on even where tracing is off.

use std::collections::HashMap;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use captionfleet_proto::trace_context::TraceContext;
use opentelemetry::Context;
pub use opentelemetry::KeyValue;
use opentelemetry::context::FutureExt as _;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanBuilder, Status, TraceContextExt as _, Tracer as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::engine::DeviceTime;

/// The target of all spans that are part of a trace.
pub const TARGET: &str = "captionfleet_trace";

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Set once, when the process starts with tracing.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// From now on spans are made.
pub(super) fn begin(tracer: SdkTracer) {
    // Tracing was started before: the first start counts, as for logs.
    let _ = TRACER.set(tracer);
}

/// Whether spans are made.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// The trace and the span that is being worked in, for a message that it causes; `None` where tracing is off.
pub fn outgoing() -> Option<TraceContext> {
    is_on().then(|| written(&Context::current())).flatten()
}

/// As [`outgoing`]; where there is nothing, what came with the message that caused this one.
pub fn outgoing_or(came: Option<&TraceContext>) -> Option<TraceContext> {
    outgoing().or_else(|| came.cloned())
}

/// The trace that is being worked in: 32 hexadecimal digits.
pub fn trace_id() -> Option<String> {
    outgoing().map(|trace| trace.trace_id().to_owned())
}

/// `span`, as a child of the span that caused a message.
pub fn continued(span: Span, from: Option<&TraceContext>) -> Span {
    if let (true, Some(from)) = (is_on(), from) {
        adopt(&span, read(from));
    }
    span
}

/// Does `work` in `span`, the first of its trace in this program: log lines tell the trace's id.
pub async fn within<F: Future>(span: Span, work: F) -> F::Output {
    async { work.instrument(for_lines()).await }.instrument(span).await
}

/// A span that only log lines have; nothing where tracing is off.
fn for_lines() -> Span {
    // As loud as an error: a filter that lets any line pass lets this pass.
    trace_id().map_or_else(Span::none, |id| tracing::error_span!("trace", trace.id = id))
}

/// A place in a trace, for work that goes on elsewhere.
#[derive(Debug, Clone)]
pub struct Here(Option<Context>);

/// The place that is being worked at.
pub fn here() -> Here {
    Here(is_on().then(Context::current))
}

impl Here {
    /// `span`, as a child of this place.
    pub fn parent_of(self, span: Span) -> Span {
        if let Some(context) = self.0 {
            adopt(&span, context);
        }
        span
    }
}

/// Takes the place that is being worked at along into a task of its own.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_current_context()
}

/// Notes something about the span that is being worked in.
pub fn note<const N: usize>(attributes: impl FnOnce() -> [KeyValue; N]) {
    if is_on() {
        Context::current().span().set_attributes(attributes());
    }
}

/// The span that is being worked in did not end well.
pub fn failed(why: &str) {
    if is_on() {
        Context::current().span().set_status(Status::error(why.to_owned()));
    }
}

/// A span that has just ended after `elapsed`.
pub fn past(name: &'static str, elapsed: Duration) {
    if let Some((tracer, parent)) = working_in() {
        let now = SystemTime::now();
        let mut span = tracer.build_with_context(starting(name, now - elapsed), &parent);
        span.end_with_timestamp(now);
    }
}

/// An answer of the engine that was asked for at `asked`, with the device's steps for it.
pub fn inferred(asked: Instant, device: &DeviceTime) {
    let Some((tracer, parent)) = working_in() else { return };
    let (now, clock) = (SystemTime::now(), Instant::now());
    let at = |instant: Instant| now - clock.saturating_duration_since(instant);
    let context = parent.with_span(tracer.build_with_context(starting("infer", at(asked)), &parent));
    context.span().set_attribute(KeyValue::new("device.seconds", device.seconds()));
    for (stage, leg) in device.legs() {
        let mut span = tracer.build_with_context(starting(stage.as_str(), at(leg.began)), &context);
        span.set_attribute(KeyValue::new("device.seconds", leg.seconds));
        span.set_attribute(KeyValue::new("device.steps", i64::from(leg.steps)));
        span.end_with_timestamp(at(leg.ended));
    }
    context.span().end_with_timestamp(now);
}

/// The tracer and the span that is being worked in, if there are both.
fn working_in() -> Option<(&'static SdkTracer, Context)> {
    Some((TRACER.get()?, Context::current())).filter(|(_, parent)| parent.has_active_span())
}

fn starting(name: &'static str, at: SystemTime) -> SpanBuilder {
    SpanBuilder::from_name(name).with_start_time(at)
}

fn adopt(span: &Span, parent: Context) {
    // It fails for a span that a sampler or a filter has left out: then there is nothing to adopt.
    let _ = span.set_parent(parent);
}

fn written(context: &Context) -> Option<TraceContext> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(context, &mut headers);
    TraceContext::parse(headers.get(TRACEPARENT)?, headers.get(TRACESTATE).map(String::as_str))
}

fn read(trace: &TraceContext) -> Context {
    let mut headers = HashMap::from([(TRACEPARENT.to_owned(), trace.traceparent().to_owned())]);
    if let Some(state) = trace.tracestate() {
        headers.insert(TRACESTATE.to_owned(), state.to_owned());
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceContext::parse(parent, Some("congo=t61rcWkgMzE")).unwrap();
        assert_eq!(written(&read(&trace)), Some(trace));
    }

    #[test]
    fn outside_of_a_trace_nothing_is_sent() {
        assert_eq!(written(&Context::new()), None);
        assert!(!is_on() && outgoing().is_none() && trace_id().is_none());
    }
}
