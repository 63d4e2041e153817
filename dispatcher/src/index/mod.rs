//! The search index of an archive: segments as objects below `index/`, made from parts and never needed to make them.
//!
//! [`shelf`] reads segments, [`indexer`] writes them, [`collect`] turns parts into rows, [`search`] answers. The parts are
//! the truth: a part that no segment has is read when someone searches, a part that is gone hides its rows at once, and the
//! whole index may be deleted. Because segments name the parts they were made from, two indexers at once only waste work:
//! they write the same object, or rows that count once.

pub mod collect;
pub mod indexer;
mod lease;
mod places;
pub mod search;
pub mod shelf;
mod vectors;

pub use indexer::{Indexed, Indexer};
pub use search::{
    Asked, Candidate, Elsewhere, Finding, Freshness, Hits, MATCH, Opened, Ranked, Ready, Reranked, Spaces,
};
pub use shelf::Shelf;
