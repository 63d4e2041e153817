//! Finding pictures again: a query's vectors against those of every part.
//!
//! The query is embedded by whoever has the model ([`query`]); here are only numbers.

mod corpus;
pub mod query;
mod ranking;
mod score;

pub use corpus::{SearchError, rank};
pub use ranking::{Candidate, Hit, Ranking};
pub use score::{MisshapenQuery, Query};
