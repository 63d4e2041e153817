//! What the user asked for: arguments and environment, checked before anything is touched.
//!
//! This folder is the only reader of the environment (the S3 client reads `AWS_*` itself). [`args`] and its neighbours are
//! what was typed; [`settings`] what follows from it.

pub mod args;
pub mod ask_args;
pub mod eval_args;
pub mod price_args;
pub mod schema;
pub mod search_args;
pub mod serve_args;
pub mod settings;
pub mod shared_args;
pub mod simulate_args;
pub mod usage_error;
pub mod work_args;

pub use args::{Cli, Command};
pub use settings::FleetSettings;
pub use usage_error::UsageError;
