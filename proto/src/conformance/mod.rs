//! Suites that every implementation of a port passes.
pub mod broker;
pub mod storage;
