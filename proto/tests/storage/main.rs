//! Every store keeps the port's promises: one suite, run on each, and what is particular to it.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, missing_docs)]

mod conformance;
mod front;
mod local;
mod s3;
