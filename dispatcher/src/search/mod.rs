//! Finding pictures again: a query's vectors against those of every part.
//!
//! The query is embedded by whoever has the model ([`query`]), which may also judge the best hits ([`rerank`]); the rest is numbers.

mod corpus;
pub mod query;
mod ranking;
pub mod rerank;
mod score;

pub use corpus::{SearchError, rank};
pub use ranking::{Candidate, Hit, Ranking};
pub use score::{MisshapenQuery, Query};
