//! The fault suite: what breaks, how the fleet must take it, and one oracle for all of it.
//!
//! ```text
//! cases (what breaks) ─► scenario (services, workers, run, oracle) ─► corpus (the undisturbed truth)
//!                          ├ proxy   TCP between the programs and the broker
//!                          └ front   HTTP between the programs and S3
//! ```
//!
//! The same list of cases drives the short form (the test `faults`) and the long one (the program `soak`).

pub mod cases;
mod corpus;
mod front;
mod member;
mod metadata;
mod proxy;
mod scenario;

pub use cases::{Case, Figures, Scale, all};
pub use corpus::{Corpus, file_name};
pub use front::{Fault, Rule, S3Front, Seen};
pub use member::{Member, resident_mib, wait_for};
pub use metadata::MetadataService;
pub use proxy::{Proxy, Weather};
pub use scenario::{Expected, Scenario};
