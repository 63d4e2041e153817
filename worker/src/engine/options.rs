//! How much the engine holds at a time.

use captionfleet_model::ModelConfig;

use super::scheduler::Limits;

/// Sizes of the engine's batches and slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Sequences that decode together.
    pub slots: usize,
    /// Pictures in one pass of the vision tower.
    pub vision_batch: usize,
    /// Prompts in one prefill.
    pub prefill_batch: usize,
    /// Tokens of one slot: prompt, picture and answer.
    pub max_len: usize,
    /// Pictures whose vision output is kept for a second prompt.
    pub feature_cache: usize,
}

/// Memory that the key-value cache may take unless slots are asked for by number.
const CACHE_BYTES: usize = 1 << 30;
/// More sequences than this gain little per step.
const MOST_SLOTS: usize = 16;
/// Prompt, picture and a long caption.
const USUAL_LEN: usize = 320;
/// Below this width the per-step overhead outweighs the arithmetic, so batches are large.
const SMALL_WIDTH: usize = 512;

impl EngineOptions {
    /// Sizes that suit the model: as many slots as a gibibyte of f32 cache holds, 16 at most.
    pub fn for_model(config: &ModelConfig) -> Self {
        let max_len = config.lm.max_positions.min(USUAL_LEN);
        let bytes_per_token = 2 * config.lm.num_layers * config.lm.hidden_size * size_of::<f32>();
        let slots = (CACHE_BYTES / (bytes_per_token * max_len).max(1)).clamp(1, MOST_SLOTS);
        let batch = if config.vision.embed_dim < SMALL_WIDTH { 16 } else { 4 };
        Self { slots, vision_batch: batch, prefill_batch: batch, max_len, feature_cache: 64 }
    }

    /// With another number of slots, if one is given.
    #[must_use]
    pub fn with_slots(mut self, slots: Option<usize>) -> Self {
        self.slots = slots.unwrap_or(self.slots).max(1);
        self
    }

    pub(super) fn limits(self) -> Limits {
        Limits {
            slots: self.slots,
            // One seat for a person, so that a question never waits for a bulk caption to end.
            reserved_slots: 1,
            vision_batch: self.vision_batch,
            prefill_batch: self.prefill_batch,
        }
    }
}
