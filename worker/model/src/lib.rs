//! TinyGPT-V and the BLIP-2 retrieval heads on candle: no queue, no storage, no runtime.
pub mod bundle;
pub mod checkpoint;
pub mod pack;
pub mod preprocess;
