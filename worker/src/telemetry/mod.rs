//! What a worker tells about itself: metrics, events, logs, and the admin port that serves them.
//!
//! Logic never touches a metric: it calls one function of [`events`], which owns the log line and the counter.
//! Nothing here knows a queue, a store or a tensor.

pub mod admin;
mod device;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod scraped;
mod starvation;

pub use logging::LogFormat;
pub use metrics::Metrics;
