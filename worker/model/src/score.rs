//! How well given answers fit a picture and a prompt.
use candle_core::Tensor;

use crate::{ModelError, PromptTokens, TinyGptV};

/// Mean negative log-likelihood of each answer after the prompt; the lowest fits best. `begin` is
/// the token whose embedding training put in front, `answers` are token ids with their end mark.
pub fn score(
    _model: &TinyGptV,
    _image_tokens: &Tensor,
    _prompt: &PromptTokens,
    _begin: u32,
    _answers: &[Vec<u32>],
) -> Result<Vec<f32>, ModelError> {
    unimplemented!()
}
