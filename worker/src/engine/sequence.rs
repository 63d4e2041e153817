//! One request on the device: what has been seen of its picture, and what it has said so far.

use candle_core::Tensor;
use captionfleet_model::{
    CaptionTokenizer, PromptTokens, Sampler, SamplingOptions, StopCondition, StopReason, clean_caption,
};
use half::f16;

use super::EngineError;
use super::feature_cache::PictureKey;
use super::repetition::is_endless;
use super::request::{CaptionResult, Work};

/// A picture after the vision step.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// `(queries, hidden)`, for the prompt.
    pub(super) image_tokens: Tensor,
    /// The search embedding, vector after vector, if it was asked for.
    pub(super) embedding: Option<Vec<f16>>,
}

/// A request that the device thread knows.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) work: Work,
    /// Of captions only.
    pub(super) key: Option<PictureKey>,
    pub(super) seen: Option<Seen>,
    pub(super) sequence: Option<Sequence>,
}

/// A caption being generated.
#[derive(Debug)]
pub(super) struct Sequence {
    prompt: PromptTokens,
    sampler: Sampler,
    stop: StopCondition,
    logprobs: f64,
}

impl Sequence {
    pub(super) fn new(
        tokenizer: &CaptionTokenizer,
        prompt: &str,
        sampling: &SamplingOptions,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            prompt: PromptTokens::new(tokenizer, prompt)?,
            // The reference counts one begin-of-text token as said, without feeding it.
            sampler: Sampler::new(sampling, tokenizer.vocab_len()).with_seen([tokenizer.end_of_text()]),
            stop: StopCondition::new(tokenizer, sampling.max_new_tokens),
            logprobs: 0.0,
        })
    }

    pub(super) fn prompt(&self) -> &PromptTokens {
        &self.prompt
    }

    /// The token said last, which the next decode step is fed.
    pub(super) fn last_token(&self) -> Option<u32> {
        self.stop.tokens().last().copied()
    }

    /// Chooses the next token from its row of logits; tells if it was the last.
    pub(super) fn say(&mut self, logits: &[f32]) -> Result<Option<StopReason>, EngineError> {
        let sampled = self
            .sampler
            .next(logits)
            .map_err(|_| EngineError::Degenerate("the network's output is not a number"))?;
        self.logprobs += f64::from(sampled.logprob);
        Ok(self.stop.push(sampled.token)?)
    }

    /// The answer of a sequence that has ended.
    pub(super) fn result(
        &self,
        tokenizer: &CaptionTokenizer,
        stop_reason: StopReason,
        embedding: Option<Vec<f16>>,
    ) -> Result<CaptionResult, EngineError> {
        let tokens = self.stop.tokens();
        let ran_out = matches!(stop_reason, StopReason::MaxTokens | StopReason::ContextFull);
        if ran_out && is_endless(tokens) {
            return Err(EngineError::Degenerate("it repeats one phrase without end"));
        }
        let said = match stop_reason {
            StopReason::EndOfText => &tokens[..tokens.len().saturating_sub(1)],
            _ => tokens,
        };
        Ok(CaptionResult {
            caption: clean_caption(&tokenizer.decode(said)?),
            tokens: tokens.len() as u32,
            mean_logprob: (self.logprobs / tokens.len().max(1) as f64) as f32,
            stop_reason,
            embedding,
        })
    }
}
