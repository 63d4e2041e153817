//! How much the engine holds at a time.

use candle_core::{DType, Device};
use captionfleet_model::{FixedRows, ModelConfig};

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
    /// The most rows of a vision or prefill batch. Between such passes, and between their layers, queries are answered.
    pub pass: usize,
    /// Pictures whose vision output is kept for a second prompt.
    pub feature_cache: usize,
    /// Every step has all the rows it can have, so that a row's bits are the same in any company: on a GPU; on a CPU they are anyway.
    pub batch_invariant: bool,
}

/// More sequences than this gain little per step on a CPU.
const MOST_SLOTS_CPU: usize = 16;
/// A GPU's decode step costs the same for a few as for many.
const MOST_SLOTS_GPU: usize = 32;
/// Prompt, picture and a long caption.
const USUAL_LEN: usize = 320;
/// Below this width the per-step overhead outweighs the arithmetic, so batches are large.
const SMALL_WIDTH: usize = 512;
/// Tokens that are read at a time where that number is fixed: a few usual prompts.
const FIXED_TOKENS: usize = 256;
/// Rows that are enough to see what a small model's steps take.
const SMALL_TRIAL: usize = 2;
/// Tokens that are enough to see what a large model's prompts take, where it reads a hundred a second.
const SHORT_TRIAL: usize = 64;

/// A slot that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--slot-tokens {asked}: a slot holds the picture, the prompt and the caption: {least} to {most} tokens with this model"
)]
pub struct SlotTokensError {
    asked: usize,
    least: usize,
    most: usize,
}

impl EngineOptions {
    /// Sizes that suit the model and the device, if memory permits.
    pub fn for_model(config: &ModelConfig, device: &Device) -> Self {
        // On a large GPU a vision batch of 16 is nine tenths as fast as one of 64, for a quarter of its memory.
        let batch = if device.is_cpu() && !Self::is_small(config) { 4 } else { 16 };
        Self {
            slots: if device.is_cpu() { MOST_SLOTS_CPU } else { MOST_SLOTS_GPU },
            vision_batch: batch,
            prefill_batch: batch,
            max_len: config.lm.max_positions.min(USUAL_LEN),
            // A CPU gains nothing from more, and whoever searches waits for a layer of all of them.
            pass: if device.is_cpu() { 1 } else { usize::MAX },
            feature_cache: 64,
            batch_invariant: false,
        }
    }

    /// Whether a model's steps take milliseconds rather than seconds.
    pub(crate) fn is_small(config: &ModelConfig) -> bool {
        config.vision.embed_dim < SMALL_WIDTH
    }

    /// With another number of slots, if one is given.
    #[must_use]
    pub fn with_slots(mut self, slots: Option<usize>) -> Self {
        self.slots = slots.unwrap_or(self.slots).max(1);
        self
    }

    /// With slots of another length, if one is given.
    ///
    /// # Errors
    /// When the model has no such positions, or the picture alone does not fit.
    pub fn with_slot_tokens(
        mut self,
        tokens: Option<usize>,
        config: &ModelConfig,
    ) -> Result<Self, SlotTokensError> {
        let Some(asked) = tokens else { return Ok(self) };
        let (least, most) = (config.qformer.num_query_tokens + 2, config.lm.max_positions);
        if !(least..=most).contains(&asked) {
            return Err(SlotTokensError { asked, least, most });
        }
        self.max_len = asked;
        Ok(self)
    }

    /// Type of keys and values: a CPU has no fast half arithmetic, on a GPU half the bytes are half the time.
    pub(crate) fn cache_dtype(device: &Device) -> DType {
        if device.is_cpu() { DType::F32 } else { DType::F16 }
    }

    /// Keys and values of one slot in bytes.
    pub fn slot_bytes(&self, config: &ModelConfig, device: &Device) -> u64 {
        let per_token = 2 * config.lm.num_layers * config.lm.hidden_size;
        (per_token * self.max_len * Self::cache_dtype(device).size_in_bytes()) as u64
    }

    /// One seat for a person, so that a question never waits for a bulk caption to end.
    pub fn reserved_slots(&self) -> usize {
        1
    }

    /// Rows with which the memory of a step of `rows` rows is measured.
    pub(super) fn trial_rows(config: &ModelConfig, rows: usize) -> usize {
        if Self::is_small(config) { rows.min(SMALL_TRIAL) } else { rows }
    }

    /// Rows of the language model's steps, if they are to be always the same.
    pub(super) fn fixed_rows(&self) -> Option<FixedRows> {
        let sequences = self.limits().all_slots();
        self.batch_invariant.then_some(FixedRows { sequences, tokens: FIXED_TOKENS })
    }

    /// Tokens with which the memory of prompts of `tokens` is measured. A CPU attends without scores in memory: what grows faster
    /// than the prompt is a mask, which is small.
    pub(super) fn trial_tokens(config: &ModelConfig, device: &Device, tokens: usize) -> usize {
        if device.is_cpu() && !Self::is_small(config) { tokens.min(SHORT_TRIAL) } else { tokens }
    }

    /// No step holds more than one pass: between two of them the scheduler is asked again.
    pub(super) fn limits(self) -> Limits {
        Limits {
            slots: self.slots,
            reserved_slots: self.reserved_slots(),
            vision_batch: self.vision_batch.min(self.pass),
            prefill_batch: self.prefill_batch.min(self.pass),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_start_does_not_wait_for_a_large_model_to_read_a_long_prompt() {
        let (large, small) = (ModelConfig::tinygpt_v(224), crate::demo_model::bundle().unwrap());
        let small = &small.manifest().config;
        assert_eq!(EngineOptions::trial_tokens(&large, &Device::Cpu, 2000), SHORT_TRIAL);
        assert_eq!(EngineOptions::trial_tokens(&large, &Device::Cpu, 40), 40);
        assert_eq!(EngineOptions::trial_tokens(small, &Device::Cpu, 2000), 2000);
    }

    #[test]
    fn no_step_holds_more_than_a_pass() {
        let config = ModelConfig::tinygpt_v(224);
        let on_cpu = EngineOptions::for_model(&config, &Device::Cpu);
        assert_eq!((on_cpu.limits().vision_batch, on_cpu.limits().prefill_batch), (1, 1));
        let wide = EngineOptions { pass: usize::MAX, ..on_cpu };
        assert_eq!((wide.limits().vision_batch, wide.limits().prefill_batch), (4, 4));
    }
}
