//! Following a submission until every job has settled.

mod book;
mod follow;

pub use book::{Book, DeadJob, Tally};
pub use follow::{Followed, Follower, Observed, Unwatched, Watched, Watcher};
