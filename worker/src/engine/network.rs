//! What the device thread asks of the network.

use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::{DecodeRow, KvCache, PrefillRow};

use super::EngineError;
use super::step::{self, Sight, Wanted};

/// The four steps. A seam: tests put a device that runs out of memory in front of the real network.
pub(super) trait Network: Send {
    /// Pictures through the vision tower, the Q-Formers and the projections.
    fn vision(&self, rows: &[Wanted<'_>]) -> Result<Vec<Sight>, EngineError>;

    /// Prompts into their slots; one row of logits each.
    fn prefill(&self, rows: &[PrefillRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError>;

    /// One more token for each row; one row of logits each.
    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError>;

    /// The embedding of a text query.
    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError>;
}

impl Network for std::sync::Arc<LoadedModel> {
    fn vision(&self, rows: &[Wanted<'_>]) -> Result<Vec<Sight>, EngineError> {
        step::vision(self, rows)
    }

    fn prefill(&self, rows: &[PrefillRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError> {
        step::prefill(self, rows, cache)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError> {
        step::decode(self, rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        step::text(self, query)
    }
}
