//! From a row of logits to the next token.
use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use candle_transformers::{
    generation::{LogitsProcessor, Sampling},
    utils::apply_repeat_penalty,
};
use captionfleet_kernels::Backend;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the most likely token; above, logits are divided by it and a token is drawn.
    pub temperature: f64,
    /// Draw only from the most likely tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens already said; 1 does nothing.
    pub repetition_penalty: f32,
    /// Seed of the drawing; the same seed and logits give the same tokens.
    pub seed: u64,
    /// Tokens after which generation ends in any case.
    pub max_new_tokens: usize,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: None, repetition_penalty: 1.0, seed: 0, max_new_tokens: 64 }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of the probability the model itself gave it, before penalty,
    /// temperature and top-p.
    pub logprob: f32,
}

/// The logits hold a NaN or nothing finite: the output would be noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model produced logits that are not numbers")]
pub struct DegenerateLogits;

/// Chooses the tokens of one sequence; remembers what it has chosen.
pub struct Sampler {
    draw: Option<LogitsProcessor>,
    repetition_penalty: f32,
    valid_vocab: usize,
    seen: BTreeSet<u32>,
}

impl Sampler {
    /// A sampler that never returns an id of `valid_vocab` or above: the model's table has more
    /// rows than the tokenizer has tokens.
    pub fn new(options: &SamplingOptions, valid_vocab: usize) -> Self {
        let draw = (options.temperature > 0.0).then(|| {
            let temperature = options.temperature;
            let sampling = match options.top_p {
                Some(p) if p < 1.0 => Sampling::TopP { p, temperature },
                _ => Sampling::All { temperature },
            };
            LogitsProcessor::from_sampling(options.seed, sampling)
        });
        Self { draw, repetition_penalty: options.repetition_penalty, valid_vocab, seen: BTreeSet::new() }
    }

    /// Counts tokens as already said, for the repetition penalty. The reference counts one
    /// begin-of-text token that is never fed to the model.
    #[must_use]
    pub fn with_seen(mut self, tokens: impl IntoIterator<Item = u32>) -> Self {
        self.seen.extend(tokens);
        self
    }

    /// Chooses the next token from one row of logits.
    pub fn next(&mut self, logits: &[f32]) -> Result<Sampled, DegenerateLogits> {
        let logits = &logits[..logits.len().min(self.valid_vocab)];
        let log_total = log_sum_exp(logits)?;
        let penalised;
        let scores = if (self.repetition_penalty - 1.0).abs() < f32::EPSILON {
            logits
        } else {
            penalised = self.penalise(logits)?;
            &penalised
        };
        let token = match &mut self.draw {
            None => argmax(scores),
            Some(draw) => Tensor::from_slice(scores, scores.len(), &Device::Cpu)
                .and_then(|scores| draw.sample(&scores))
                .map_err(|_| DegenerateLogits)?,
        };
        self.seen.insert(token);
        Ok(Sampled { token, logprob: logits[token as usize] - log_total })
    }

    /// Whether it takes the likeliest token whatever it is, and nothing else need be known of the logits.
    pub fn is_greedy(&self) -> bool {
        self.draw.is_none() && (self.repetition_penalty - 1.0).abs() < f32::EPSILON
    }

    /// Takes a token that was found elsewhere, as [`Sampler::next`] would have.
    pub fn take(&mut self, likeliest: Sampled) -> Sampled {
        self.seen.insert(likeliest.token);
        likeliest
    }

    /// The likeliest of `allowed`, whose ids are ascending, and the natural logarithm of its share among them; `None`
    /// where none is allowed.
    pub fn likeliest(
        &self,
        logits: &[f32],
        allowed: &[u32],
    ) -> Result<Option<(Sampled, f32)>, DegenerateLogits> {
        let logits = &logits[..logits.len().min(self.valid_vocab)];
        let log_total = log_sum_exp(logits)?;
        let scores: Vec<f32> = allowed.iter().filter_map(|id| logits.get(*id as usize).copied()).collect();
        if scores.is_empty() {
            return Ok(None);
        }
        let at = argmax(&scores) as usize;
        let share = scores[at] - log_sum_exp(&scores)?;
        Ok(Some((Sampled { token: allowed[at], logprob: scores[at] - log_total }, share)))
    }

    fn penalise(&self, logits: &[f32]) -> Result<Vec<f32>, DegenerateLogits> {
        let seen: Vec<u32> = self.seen.iter().copied().collect();
        Tensor::from_slice(logits, logits.len(), &Device::Cpu)
            .and_then(|logits| apply_repeat_penalty(&logits, self.repetition_penalty, &seen))
            .and_then(|logits| logits.to_vec1())
            .map_err(|_| DegenerateLogits)
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("draws", &self.draw.is_some())
            .field("repetition_penalty", &self.repetition_penalty)
            .field("seen", &self.seen.len())
            .finish_non_exhaustive()
    }
}

/// The first of the largest values.
fn argmax(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = id;
        }
    }
    best as u32
}

/// The natural logarithm of the probability of `token`, over all rows of the table as in training.
pub fn log_probability(logits: &[f32], token: u32) -> Result<f32, DegenerateLogits> {
    let score = logits.get(token as usize).ok_or(DegenerateLogits)?;
    Ok(score - log_sum_exp(logits)?)
}

fn log_sum_exp(logits: &[f32]) -> Result<f32, DegenerateLogits> {
    let total = captionfleet_kernels::log_sum_exp(Backend::best(), logits);
    // A NaN anywhere makes the sum NaN; no logits at all or only -inf leave it without a maximum.
    if !total.is_finite() {
        return Err(DegenerateLogits);
    }
    Ok(total as f32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    fn options(temperature: f64, top_p: Option<f64>, seed: u64) -> SamplingOptions {
        SamplingOptions { temperature, top_p, seed, ..SamplingOptions::default() }
    }

    #[test]
    fn greedy_takes_the_largest_id_that_the_tokenizer_has() {
        let mut sampler = Sampler::new(&SamplingOptions::default(), 3);
        let sampled = sampler.next(&[0.0, 2.0, 1.0, 50.0]).unwrap();
        assert_eq!(sampled.token, 1);
        let expected = 2.0 - (0f32.exp() + 2f32.exp() + 1f32.exp()).ln();
        assert!((sampled.logprob - expected).abs() < 1e-6);
    }

    #[test]
    fn the_penalty_reaches_seen_tokens_only_and_both_signs() {
        let penalty = SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::default() };
        let mut sampler = Sampler::new(&penalty, 4).with_seen([0]);
        // 0 was seen: 3.0 / 2 < 2.0.
        assert_eq!(sampler.next(&[3.0, 2.0, -5.0, -5.0]).unwrap().token, 1);
        // Now 1 is seen as well and negative: -1.0 * 2 < -1.5.
        assert_eq!(sampler.next(&[-9.0, -1.0, -1.5, -5.0]).unwrap().token, 2);
    }

    #[test]
    fn the_likeliest_of_few_has_its_share_among_them() {
        let sampler = Sampler::new(&SamplingOptions::default(), 4);
        let (sampled, share) = sampler.likeliest(&[5.0, 1.0, 1.0, 0.0], &[1, 2]).unwrap().unwrap();
        assert_eq!(sampled.token, 1);
        assert!((share - 0.5_f32.ln()).abs() < 1e-6 && sampled.logprob < share);
        assert_eq!(sampler.likeliest(&[0.0; 4], &[]).unwrap(), None);
        assert!(sampler.likeliest(&[0.0, f32::NAN, 0.0, 0.0], &[1]).is_err());
    }

    #[test]
    fn a_seed_repeats_its_draws_and_top_p_keeps_to_the_head() {
        let logits = [1.0, 1.1, 0.9, -3.0];
        let draw = |seed| {
            let mut sampler = Sampler::new(&options(1.0, None, seed), 4);
            (0..40).map(|_| sampler.next(&logits).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().collect::<BTreeSet<_>>().len() >= 3);
        let mut narrow = Sampler::new(&options(1.0, Some(0.05), 7), 4);
        assert!((0..40).all(|_| narrow.next(&logits).unwrap().token == 1));
    }

    #[test]
    fn not_a_number_is_an_error_in_every_mode() {
        for options in [options(0.0, None, 0), options(0.7, Some(0.9), 0)] {
            let mut sampler = Sampler::new(&options, 4);
            assert!(sampler.next(&[0.0, f32::NAN, 1.0]).is_err());
            assert!(sampler.next(&[f32::NEG_INFINITY; 3]).is_err());
            assert!(sampler.next(&[0.0, f32::INFINITY, 1.0]).is_err());
        }
    }
}
