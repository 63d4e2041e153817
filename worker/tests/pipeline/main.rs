//! The pipeline over an in-process broker, a folder and the demo model: what becomes of jobs, whatever happens.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod adapters;
mod bench;
mod captions;
mod colours;
mod damaged_films;
mod failures;
mod film;
mod film_ends;
mod quarantine;
mod questions;
mod rerank;
mod searches;
mod shutdown;
mod turns;
mod videos;
