//! What a worker tells about itself: metrics, events, logs, spans of traces, and the admin port that serves the metrics.
//!
//! Logic never touches a metric: it calls one function of [`events`], which owns the log line and the counter.
//! Nothing here knows a queue, a store or a tensor.

pub mod admin;
mod device;
pub mod energy;
pub mod events;
pub mod logging;
pub mod metrics;
mod otlp;
pub mod readiness;
pub mod scraped;
pub mod spans;
mod starvation;

pub use logging::{LogFormat, Telemetry};
pub use metrics::Metrics;
