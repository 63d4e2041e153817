//! Publishes captioning and search jobs, follows them to their last row, and finds pictures again.
//!
//! Data goes one way: [`catalog`] lists items, [`history`] reads what the archive has, [`survey`] measures videos, [`plan`] compares the two and cuts
//! jobs, [`submission`] writes the run down, [`publish`] hands its jobs to the broker, [`ledger`] follows them, [`report`]
//! says what they came to; [`prepare`] does the first half of that and [`conduct`] the second. [`verify`] and [`search`] read
//! the archive. [`eval`] reads benchmarks and judges answers. [`bill`] is what work took and cost, [`rates`] reads that of
//! earlier runs, [`scale`] is the arithmetic of how many workers waiting work is worth. [`serve`] offers all of it over HTTP.
//! [`app`] wires it, one file per command.
//!
//! What is not here: tensors, and any client library of a broker or a bucket. Without a broker the worker's library runs
//! in this process over the embedded queue, and everything else stays the same.

pub mod adapter;
pub mod app;
pub mod archive;
pub mod bill;
pub mod catalog;
pub mod conduct;
pub mod config;
pub mod eval;
pub mod exchange;
pub mod exit;
pub mod fleet;
pub mod forget;
pub mod history;
pub mod index;
pub mod ledger;
mod memory;
pub mod output;
pub mod plan;
pub mod planned_job;
pub mod prepare;
pub mod progress;
pub mod publish;
pub mod rates;
pub mod report;
pub mod scale;
pub mod search;
pub mod serve;
pub mod staging;
pub mod submission;
pub mod survey;
pub mod telemetry;
pub mod tracks;
pub mod verify;
pub mod wish;
