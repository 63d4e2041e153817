//! What the device thread asks of the network.

use std::sync::Arc;

use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow};

use super::pace::Pace;
use super::step::{self, Logits, Sight, Wanted};
use super::{EngineError, EngineOptions};

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
    ) -> Result<Logits, EngineError>;

    /// One more token for each row; one row of logits each.
    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError>;

    /// The embedding of a text query.
    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError>;

    /// Whether the device still computes anything at all.
    ///
    /// # Errors
    /// What it says.
    fn lives(&self) -> Result<(), EngineError>;
}

impl Network for Arc<LoadedModel> {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        step::vision(self, rows, &mut settled(self, pause))
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        step::prefill(self, rows, cache, &mut settled(self, pause))
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        step::decode(self, rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        step::text(self, query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        step::small_product(self.model.device())
    }
}

/// The network of a loaded model, with steps as the options want them.
pub(super) fn network(loaded: &Arc<LoadedModel>, options: &EngineOptions) -> Box<dyn Network> {
    match options.fixed_rows() {
        Some(_) => Box::new(Filled { loaded: Arc::clone(loaded), pictures: options.limits().vision_batch }),
        None => Box::new(Arc::clone(loaded)),
    }
}

/// Vision batches that are always of the same number of pictures. (The cache sees to the other steps.)
struct Filled {
    loaded: Arc<LoadedModel>,
    pictures: usize,
}

impl Network for Filled {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        // What one of them is wanted for is made of all.
        let (caption, embed) = (rows.iter().any(|row| row.caption), rows.iter().any(|row| row.embed));
        let mut all: Vec<_> = rows.iter().map(|row| Wanted { caption, embed, ..*row }).collect();
        let filling = rows.first().map(|row| Wanted { adapter: None, text: None, caption, embed, ..*row });
        all.extend(filling.into_iter().cycle().take(self.pictures.saturating_sub(rows.len())));
        let mut sights = self.loaded.vision(&all, pause)?;
        sights.truncate(rows.len());
        for (sight, row) in sights.iter_mut().zip(rows) {
            sight.keep_only(row);
        }
        Ok(sights)
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        self.loaded.prefill(rows, cache, pause)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        self.loaded.decode(rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        self.loaded.text(query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        self.loaded.lives()
    }
}

/// Pauses when the device has done nearly all that it was given.
fn settled(loaded: &LoadedModel, pause: Pause<'_>) -> impl FnMut() {
    let mut pace = Pace::of(loaded.model.device());
    move || {
        pace.keep();
        pause();
    }
}
