//! Every broker keeps the port's promises: one suite, run on each.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, missing_docs)]

mod conformance;
mod embedded;
mod rabbitmq;
mod support;
