//! How much memory there is, what the model takes of it, and how many slots the rest holds.
//!
//! [`Meter`] measures, [`plan`] decides (a pure function), [`MemoryBudget`] is what an operator sees at the start.

mod budget;
#[cfg(feature = "cuda")]
mod cuda;
mod meter;
mod trial;

pub use budget::{BudgetError, Limit, Measured, MemoryBudget, StepMemory, Wish, plan};
#[cfg(feature = "cuda")]
pub use cuda::keep_freed;
pub use meter::Meter;
pub use trial::{Trial, try_steps};
