//! Keys and values of running sequences: allocated once, in slots, written in place.
use std::{collections::HashSet, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};

use crate::{
    Adapter, ConfigError, ModelError, PhiConfig, TinyGptV, error::DuringStep, own_kernels::Recordings,
};

/// The key-value cache of all layers.
///
/// A slot is one sequence's seat. Each slot knows how many tokens it holds; prefill and decode
/// append behind them. Nothing is ever moved or cleared: [`KvCache::free`] only forgets.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    lengths: Vec<usize>,
    /// What each slot's keys and values were made with, and its sequence goes on with.
    adapters: Vec<Option<Arc<Adapter>>>,
    max_len: usize,
    fixed_rows: Option<FixedRows>,
    /// Decode steps that a GPU's driver has recorded with this cache.
    recordings: Recordings,
}

/// Rows of every step, however few are wanted: the others are filled up and thrown away. A GPU chooses its kernels by the number of
/// rows, and each rounds in its own way; with always the same number a row's bits are the same in any company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedRows {
    /// Sequences of a decode step, and of the output head; as many as the cache has slots, or more.
    pub sequences: usize,
    /// Tokens that a prefill reads at a time. A prompt lies in one such piece, or begins one.
    pub tokens: usize,
}

/// Keys and values of one layer, `(2, slots, heads, max_len, head_dim)`: in one tensor, so that one kernel can write both.
#[derive(Debug)]
pub(crate) struct LayerCache(Tensor);

/// Tokens about to be appended to one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) slot: usize,
    /// Tokens the slot holds already.
    pub(crate) held: usize,
    /// Tokens that come.
    pub(crate) tokens: usize,
}

/// The spans' tokens in pieces of at most `size`: whole prompts side by side, longer ones in pieces of their own.
pub(crate) fn pieces(spans: &[Span], size: usize) -> Vec<Vec<Span>> {
    let mut pieces: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for span in spans {
        let mut rest = *span;
        while rest.tokens > 0 {
            let first = Span { tokens: rest.tokens.min(size), ..rest };
            if first.tokens > room {
                pieces.push(Vec::new());
                room = size;
            }
            room -= first.tokens;
            pieces.last_mut().into_iter().for_each(|piece| piece.push(first));
            rest = Span { held: rest.held + first.tokens, tokens: rest.tokens - first.tokens, ..rest };
        }
    }
    pieces
}

impl Span {
    /// Positions of the tokens that come.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u32> + use<> {
        (self.held as u32..).take(self.tokens)
    }
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
        if max_len > config.max_positions {
            let reason = format!("slots of {max_len} tokens exceed it");
            return Err(ConfigError::new("lm.max_positions", reason).into());
        }
        let shape = (2, slots, config.num_heads, max_len, config.head_dim());
        // Not zeros: on a CPU those are pages that the system has only promised, and a worker without the memory for its
        // slots would be killed in the middle of its work instead of at its start.
        let layers = (0..config.num_layers)
            .map(|_| Ok(LayerCache(Tensor::ones(shape, dtype, device)?)))
            .collect::<Result<_>>()
            .during("allocation of the key-value cache")?;
        Ok(Self {
            layers,
            lengths: vec![0; slots],
            adapters: vec![None; slots],
            max_len,
            fixed_rows: None,
            recordings: Recordings::default(),
        })
    }

    /// A cache in f32 on the model's device, for callers that run a batch from prefill to end.
    pub(crate) fn for_prefill(
        model: &TinyGptV,
        slots: usize,
        max_len: usize,
    ) -> std::result::Result<Self, ModelError> {
        Self::new(&model.config().lm, slots, max_len, DType::F32, model.device())
    }

    /// From now on every step has so many rows.
    pub fn fix_rows(&mut self, rows: FixedRows) {
        self.fixed_rows = Some(rows);
    }

    pub(crate) fn fixed_rows(&self) -> Option<FixedRows> {
        self.fixed_rows
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
            self.adapters[slot] = None;
        }
    }

    /// Forgets what a slot holds beyond its first `tokens` tokens: a step that failed after it was counted, because its
    /// result could not be copied, say, can then be taken again.
    pub fn rewind(&mut self, slot: usize, tokens: usize) {
        match self.lengths.get_mut(slot) {
            Some(_) if tokens == 0 => self.free(slot),
            Some(length) => *length = tokens.min(*length),
            None => {}
        }
    }

    /// Makes slot `to` hold what slot `from` holds.
    pub fn copy_slot(&mut self, from: usize, to: usize) -> std::result::Result<(), ModelError> {
        for slot in [from, to] {
            self.check_slot(slot)?;
        }
        let tokens = self.lengths[from];
        if from != to && tokens > 0 {
            for layer in &self.layers {
                layer.copy_slot(from, to, tokens).during("copying of a cache slot")?;
            }
        }
        self.lengths[to] = tokens;
        self.adapters[to] = self.adapters[from].clone();
        Ok(())
    }

    /// Steps recorded with this cache, for a while.
    pub(crate) fn take_recordings(&mut self) -> Recordings {
        std::mem::take(&mut self.recordings)
    }

    pub(crate) fn put_recordings(&mut self, recordings: Recordings) {
        self.recordings = recordings;
    }

    pub(crate) fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// Checks that the rows `(slot, tokens)` can be appended together.
    pub(crate) fn plan(
        &self,
        rows: impl IntoIterator<Item = (usize, usize)>,
    ) -> std::result::Result<Vec<Span>, ModelError> {
        let mut taken = HashSet::new();
        rows.into_iter()
            .map(|(slot, tokens)| {
                self.check_slot(slot)?;
                if !taken.insert(slot) {
                    return Err(ModelError::Slot { slot, reason: "it is named twice in one step" });
                }
                if tokens == 0 {
                    return Err(ModelError::Slot { slot, reason: "the row has no tokens" });
                }
                let held = self.lengths[slot];
                if held + tokens > self.max_len {
                    return Err(ModelError::SlotFull { slot, held, wanted: tokens, limit: self.max_len });
                }
                Ok(Span { slot, held, tokens })
            })
            .collect()
    }

    /// The adapter of a slot's sequence.
    pub(crate) fn adapter(&self, slot: usize) -> Option<Arc<Adapter>> {
        self.adapters.get(slot).cloned().flatten()
    }

    /// Notes with what a slot's sequence was begun.
    pub(crate) fn adopt(&mut self, slot: usize, adapter: Option<Arc<Adapter>>) {
        self.adapters[slot] = adapter;
    }

    /// Counts the spans' tokens as held, after every layer has them.
    pub(crate) fn commit(&mut self, spans: &[Span]) {
        for span in spans {
            self.lengths[span.slot] = span.held + span.tokens;
        }
    }

    fn check_slot(&self, slot: usize) -> std::result::Result<(), ModelError> {
        if slot < self.lengths.len() {
            Ok(())
        } else {
            Err(ModelError::Slot { slot, reason: "the cache has no such slot" })
        }
    }
}

impl LayerCache {
    /// Over a tensor `(2, slots, heads, max_len, head_dim)`, keys before values.
    pub(crate) fn of(store: Tensor) -> Self {
        Self(store)
    }

    /// The tensor, for a kernel.
    pub(crate) fn store(&self) -> &Tensor {
        &self.0
    }

    /// Writes keys and values `(heads, tokens, head_dim)` behind what the slot holds; returns
    /// views of all the slot's keys and values `(heads, held + tokens, head_dim)`.
    pub(crate) fn append(&self, span: &Span, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let view = |half: usize, new: &Tensor| {
            let store = self.0.get(half)?;
            let slot = store.narrow(0, span.slot, 1)?;
            slot.slice_set(&new.to_dtype(store.dtype())?.contiguous()?.unsqueeze(0)?, 2, span.held)?;
            slot.squeeze(0)?.narrow(1, 0, span.held + span.tokens)
        };
        Ok((view(0, keys)?, view(1, values)?))
    }

    fn copy_slot(&self, from: usize, to: usize, tokens: usize) -> Result<()> {
        for half in [0, 1] {
            let store = self.0.get(half)?;
            // `force_contiguous` makes a copy: a slot cannot be read and written at once.
            let held = store.narrow(0, from, 1)?.narrow(2, 0, tokens)?.force_contiguous()?;
            store.narrow(0, to, 1)?.slice_set(&held, 2, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ModelConfig;

    fn cache() -> KvCache {
        let config = PhiConfig {
            num_layers: 1,
            num_heads: 2,
            hidden_size: 4,
            rotary_dim: 2,
            ..ModelConfig::tinygpt_v(224).lm
        };
        KvCache::new(&config, 2, 3, DType::F32, &Device::Cpu).unwrap()
    }

    fn tokens(values: &[f32], count: usize) -> Tensor {
        Tensor::from_slice(values, (2, count, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn a_slot_holds_what_was_appended_and_only_that() {
        let mut cache = cache();
        let first = tokens(&[1., 2., 3., 4., 5., 6., 7., 8.], 2);
        let spans = cache.plan([(1, 2)]).unwrap();
        cache.layers[0].append(&spans[0], &first, &first).unwrap();
        cache.commit(&spans);
        let spans = cache.plan([(1, 1)]).unwrap();
        let second = tokens(&[9., 10., 11., 12.], 1);
        let (keys, _) = cache.layers[0].append(&spans[0], &second, &second).unwrap();
        cache.commit(&spans);
        let keys: Vec<f32> = keys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(keys, [1., 2., 3., 4., 9., 10., 5., 6., 7., 8., 11., 12.]);
        assert_eq!((cache.len(0), cache.len(1)), (0, 3));

        cache.copy_slot(1, 0).unwrap();
        let copied = cache.layers[0].store().get(0).unwrap().get(0).unwrap().flatten_all().unwrap();
        assert_eq!(copied.to_vec1::<f32>().unwrap(), keys);
        cache.rewind(0, 2);
        cache.rewind(0, 3);
        assert_eq!((cache.len(0), cache.len(1)), (2, 3), "what is forgotten does not come back");
        cache.free(1);
        cache.rewind(0, 0);
        cache.rewind(9, 0);
        assert!(cache.is_empty());
    }

    #[test]
    fn prompts_are_read_in_pieces_that_their_neighbours_do_not_choose() {
        let of = |spans: &[(usize, usize)], size| -> Vec<Vec<(usize, usize, usize)>> {
            let spans: Vec<Span> = (spans.iter().enumerate())
                .map(|(slot, &(held, tokens))| Span { slot, held, tokens })
                .collect();
            let told = |span: &Span| (span.slot, span.held, span.tokens);
            pieces(&spans, size).iter().map(|piece| piece.iter().map(told).collect()).collect()
        };
        assert_eq!(of(&[(0, 3), (0, 4), (0, 4)], 8), [vec![(0, 0, 3), (1, 0, 4)], vec![(2, 0, 4)]]);
        // The cuts of a long one are its own.
        let long = [vec![(0, 5, 4)], vec![(0, 9, 4)], vec![(0, 13, 1), (1, 0, 3)]];
        assert_eq!(of(&[(5, 9), (0, 3)], 4), long);
        assert_eq!(of(&[(0, 2), (5, 9)], 4)[1..], [vec![(1, 5, 4)], vec![(1, 9, 4)], vec![(1, 13, 1)]]);
        assert!(of(&[], 4).is_empty());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let cache = cache();
        assert!(matches!(cache.plan([(0, 4)]), Err(ModelError::SlotFull { wanted: 4, limit: 3, .. })));
        for rows in [vec![(2, 1)], vec![(0, 1), (0, 1)], vec![(0, 0)]] {
            assert!(matches!(cache.plan(rows), Err(ModelError::Slot { .. })));
        }
    }

    #[test]
    fn slots_longer_than_the_rotary_tables_are_refused() {
        let config = ModelConfig::tinygpt_v(224).lm;
        let error = KvCache::new(&config, 1, 2049, DType::F32, &Device::Cpu).unwrap_err();
        assert!(matches!(error, ModelError::Config(_)));
    }
}
