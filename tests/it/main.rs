//! End to end: both programs as child processes, over the real services that `tests/run` starts.
#![allow(clippy::unwrap_used)]

mod archive;
mod bad_input;
mod bench;
mod benchmarks;
mod bill;
mod demo;
mod deploy;
mod doctor;
mod films;
mod fleet;
mod forgotten;
mod left_runs;
mod load;
mod memory;
mod models;
mod monitoring;
mod pictures;
mod python;
mod questions;
mod scaling;
mod service;
mod signal;
mod starting;
mod telemetry;
mod traces;
