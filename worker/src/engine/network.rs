//! What the device thread asks of the network.

use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow};

use super::EngineError;
use super::step::{self, Sight, Wanted};

/// The four steps. A seam: tests put a device that runs out of memory in front of the real network. The long ones pause
/// between their layers, when what was asked for so far is done.
pub(super) trait Network: Send {
    /// Pictures through the vision tower, the Q-Formers and the projections.
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError>;

    /// Prompts into their slots; one row of logits each.
    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError>;

    /// One more token for each row; one row of logits each.
    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError>;

    /// The embedding of a text query.
    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError>;

    /// Whether the device still computes anything at all.
    ///
    /// # Errors
    /// What it says.
    fn lives(&self) -> Result<(), EngineError>;
}

impl Network for std::sync::Arc<LoadedModel> {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        step::vision(self, rows, &mut settled(self, pause))
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        step::prefill(self, rows, cache, &mut settled(self, pause))
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError> {
        step::decode(self, rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        step::text(self, query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        step::small_product(self.model.device())
    }
}

/// Pauses when the device has done what it was given: a GPU is given work far ahead, and would look free at once.
fn settled(loaded: &LoadedModel, pause: Pause<'_>) -> impl FnMut() {
    let device = loaded.model.device();
    move || {
        // A device that fails here fails at the next layer, too, and is told there.
        if device.is_cpu() || device.synchronize().is_ok() {
            pause();
        }
    }
}
