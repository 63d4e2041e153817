//! Whole sequences in one call: greedy decoding as the reference's `generate` does it.
//!
//! The engine drives [`TinyGptV::prefill`] and [`TinyGptV::decode`] itself, sequence by sequence;
//! this driver runs a fixed batch to its end with the same steps and the same [`Sampler`].
use candle_core::Tensor;

use crate::{
    DecodeRow, DegenerateLogits, KvCache, ModelError, PrefillRow, Sampler, SamplingOptions, TinyGptV,
    error::DuringStep,
};

/// When a batch ends and what its rows begin and are filled up with.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The choice of tokens and the largest number of new ones.
    pub sampling: SamplingOptions,
    /// Stands in front of every row without being fed to the model, and counts as said.
    pub begin: u32,
    /// Ends a row.
    pub end: u32,
    /// Fills a row that ended before the others.
    pub pad: u32,
    /// Ends the batch as soon as the first row says one of them.
    pub stop: Vec<u32>,
    /// Ids there are in the tokenizer.
    pub valid_vocab: usize,
}

/// Generation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its output.
    #[error(transparent)]
    Degenerate(#[from] DegenerateLogits),
}

/// Continues prompts `(T, H)` of any lengths; returns one row of ids for each, `begin` first, all
/// of equal length.
pub fn generate(
    model: &TinyGptV,
    prompts: &[Tensor],
    options: &GenerateOptions,
) -> Result<Vec<Vec<u32>>, GenerateError> {
    let mut rows = vec![vec![options.begin]; prompts.len()];
    let max_new_tokens = options.sampling.max_new_tokens;
    let longest = prompts.iter().map(|prompt| prompt.dims()[0]).max().unwrap_or(0);
    if longest == 0 || max_new_tokens == 0 {
        return Ok(rows);
    }
    let mut cache = KvCache::for_prefill(model, prompts.len(), longest + max_new_tokens - 1)?;
    let mut samplers: Vec<Sampler> = prompts
        .iter()
        .map(|_| Sampler::new(&options.sampling, options.valid_vocab).with_seen([options.begin]))
        .collect();
    let mut running: Vec<usize> = (0..prompts.len()).collect();
    let first: Vec<PrefillRow> =
        prompts.iter().enumerate().map(|(slot, embeds)| PrefillRow::plain(slot, embeds.clone())).collect();
    let mut logits = model.prefill(&first, &mut cache)?;
    for said in 1.. {
        let mut scores = rows_of(&logits)?.into_iter();
        let mut going = Vec::with_capacity(running.len());
        for (slot, row) in rows.iter_mut().enumerate() {
            if !running.contains(&slot) {
                row.push(options.pad);
                continue;
            }
            let scores = scores.next().unwrap_or_default();
            let token = samplers[slot].next(&scores)?.token;
            row.push(token);
            if token != options.end {
                going.push(slot);
            }
        }
        running = going;
        let stopped = rows[0].last().is_some_and(|last| options.stop.contains(last));
        if running.is_empty() || stopped || said == max_new_tokens {
            break;
        }
        let next: Vec<DecodeRow> =
            running.iter().map(|&slot| DecodeRow { slot, token: rows[slot][said] }).collect();
        logits = model.decode(&next, &mut cache)?;
    }
    Ok(rows)
}

/// Logits `(rows, vocab)` on the host.
pub(crate) fn rows_of(logits: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    logits.to_vec2().during("reading of the logits")
}
