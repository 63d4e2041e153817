//! What captionfleet's processes agree on, and how they meet: messages, queues, archive, rows.
pub mod broker;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod storage;
