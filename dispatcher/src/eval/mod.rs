//! Benchmarks: data sets in their published formats, the questions that they ask, and what answers are worth.
//!
//! [`sets`] reads, [`scores`] judges one answer, [`captions`] judges captions as a whole, [`ranking`] probabilities, [`report`]
//! and [`plot`] tell it. Everything here is pure but for reading the set's files; `app/eval.rs` runs it.

pub mod captions;
pub mod plot;
pub mod published;
pub mod ranking;
pub mod report;
pub mod scores;
pub mod sets;

pub use report::Report;
pub use sets::{Benchmark, Case, Gold, SetError};
