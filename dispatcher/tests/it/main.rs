//! The dispatcher as its user sees it: arguments, output, exit codes; embedded queue, folder archive, demo model.

#![allow(clippy::unwrap_used, missing_docs)]

mod asking;
mod awkward;
mod desk;
mod errors;
mod evaluating;
mod faltering;
mod finding;
mod forgetting;
mod indexing;
mod made;
mod resume;
mod retrying;
mod spaces;
mod telling;
mod turning;
mod verifying;
mod videos;
