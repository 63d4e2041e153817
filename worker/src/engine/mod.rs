//! The engine: one device thread that turns pictures and prompts into captions and embeddings.
//!
//! Requests from any task meet on one thread, which owns the model and its key-value cache. A pure
//! [scheduler](scheduler::Scheduler) says what the device does next; a finished sequence's slot is taken again
//! before the next decode step. One vision pass serves a caption and its embedding. Nothing here knows a queue or a
//! store: `pipeline` brings pictures and takes results.

mod contained;
mod device;
mod device_time;
mod error;
mod feature_cache;
mod handle;
mod interlude;
mod lane_queue;
pub mod memory;
mod network;
mod null;
mod observer;
mod options;
mod pace;
mod pulse;
mod repetition;
mod request;
pub mod scheduler;
mod sequence;
mod step;
mod throttle;

pub use device_time::{DeviceTime, Leg};
pub use error::EngineError;
pub(crate) use error::shortage;
#[cfg(test)]
pub(crate) use handle::fault_tests;
pub use handle::{Engine, EngineHandle, EngineInfo};
pub use memory::try_steps;
pub use null::{NOT_A_CAPTION, NULL, NullOptions};
pub use observer::{EngineObserver, Stage, Unobserved};
pub use options::{EngineOptions, SlotTokensError};
pub use request::{Ask, CaptionRequest, CaptionResult, Manner, MatchText, Priority, Said};
