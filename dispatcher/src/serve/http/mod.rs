//! Requests and answers, whatever they are about.

pub mod access;
pub mod conditional;
pub mod extract;
pub mod guard;
pub mod listen;
pub mod metrics;
pub mod openapi;
pub mod operation;
pub mod problem;
pub mod rate;
