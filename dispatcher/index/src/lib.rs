//! The search index of an archive, without any input or output: bytes come in, places come out.
//!
//! A [`Segment`] is one immutable object: the rows of some parts, the words of their captions, and a code of each row's
//! vectors in three layers ([`codes`]). A [`View`] is a set of segments seen as one: of several rows of an item the
//! latest counts. Looking up is a cascade ([`View::nearest`]): the first layer of every row that the [`Filter`] lets
//! through, the second of the best of them, all three of the best of those; whoever has the parts then compares what is
//! still in doubt exactly ([`doubtful`]).
//!
//! Segments never need to agree with each other: two that cover the same part show its rows once. So there is nothing to
//! lock and no state that a killed writer could leave half changed.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod codes;
mod contents;
mod filter;
mod fusion;
mod segment;
mod view;
mod words;

pub use codes::Probe;
pub use contents::Contents;
pub use filter::Filter;
pub use fusion::reciprocal_ranks;
pub use segment::{
    NewRow, PartStamp, Record, Segment, SegmentBuilder, SegmentError, Status, content_key, item_key, merge,
};
pub use view::{Found, Place, View, doubtful};
