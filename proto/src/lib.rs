//! What captionfleet's processes agree on, and how they meet: messages, queues, archive, rows.
//!
//! The crate has three floors.
//!
//! * **Words**: [`uri`] names pictures and archives, [`job`] and [`outcome`] are the messages, [`trace_context`] links
//!   them to a trace, [`manifest`] and [`rows`] are what an archive holds, [`layout`] spells its keys. Plain data, no I/O.
//! * **Bytes**: [`codec`] turns messages into versioned JSON and back; `manifest` and `rows` do so for Parquet.
//! * **Ports**: [`broker`] and [`storage`], each with an embedded and a real implementation that pass one
//!   suite (`tests/broker`, `tests/storage`).
//!
//! What is not here: tensors, command lines, scheduling, and any decision about when to retry.
//! `proto/README.md` describes the same contract for programs that are not written in Rust.
pub mod broker;
pub mod codec;
mod error_chain;
pub mod examples;
pub mod job;
pub mod layout;
pub mod manifest;
pub mod outcome;
pub mod rows;
pub mod storage;
mod table;
pub mod trace_context;
pub mod uri;
pub mod videos;

pub use error_chain::chain;
