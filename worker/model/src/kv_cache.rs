//! Keys and values of running sequences: allocated once, in slots, written in place.
use candle_core::{DType, Device, Result, Tensor};

use crate::{ModelError, PhiConfig, error::DuringStep};

/// The key-value cache of all layers.
///
/// A slot is one sequence's seat. Each slot knows how many tokens it holds; prefill and decode
/// append behind them. Nothing is ever moved or cleared: [`KvCache::free`] only forgets.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    max_len: usize,
}

/// Keys and values of one layer, each `(slots, heads, max_len, head_dim)`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// Allocates `slots` seats of `max_len` tokens each. `dtype` is f32 or, to halve the memory,
    /// f16 or bf16; on a CPU f32 is the fast one.
    pub fn new(
        config: &PhiConfig,
        slots: usize,
        max_len: usize,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        let shape = (slots, config.num_heads, max_len, config.head_dim());
        let layers = (0..config.num_layers)
            .map(|_| {
                Ok(LayerCache {
                    keys: Tensor::zeros(shape, dtype, device)?,
                    values: Tensor::zeros(shape, dtype, device)?,
                })
            })
            .collect::<Result<_>>()
            .during("allocation of the key-value cache")?;
        Ok(Self { layers, lengths: vec![0; slots], max_len })
    }

    /// Seats there are.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens a slot can hold.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Tokens the slot holds; 0 for a slot outside the cache.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths.get(slot).copied().unwrap_or(0)
    }

    /// Whether no slot holds anything.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&length| length == 0)
    }

    /// Forgets a slot's tokens, so that the next prefill starts a new sequence there.
    pub fn free(&mut self, slot: usize) {
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = 0;
        }
    }
}
