//! The dispatcher as its user sees it: arguments, output, exit codes; embedded queue, folder archive, demo model.

#![allow(clippy::unwrap_used, missing_docs)]

mod awkward;
mod desk;
mod errors;
mod finding;
mod indexing;
mod resume;
mod verifying;
mod videos;
