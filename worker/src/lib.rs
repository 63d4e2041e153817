//! The fleet's member: one TinyGPT-V on one device, fed from a queue.
//!
//! Data goes one way: `app` wires `pipeline` (jobs) to `engine` (the device thread) to the model crate (the network).
//! The pipeline knows no tensors, the engine no queue and no store. The dispatcher runs [`app::run_worker`] in its own
//! process when there is no broker.

pub mod app;
pub mod commands;
pub mod config;
pub mod demo_model;
pub mod doctor;
pub mod engine;
pub mod finetune;
mod last_words;
pub mod machine;
pub mod model_choice;
mod panics;
pub mod pipeline;
pub mod spot;
pub mod telemetry;
pub mod threads;
pub mod video;
