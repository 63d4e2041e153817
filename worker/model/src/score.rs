//! How well given answers fit a picture and a prompt.
use candle_core::{D, Tensor};

use crate::{KvCache, ModelError, PrefillRow, PromptTokens, TinyGptV, error::DuringStep, probe::unwatched};

/// Mean negative log-likelihood, in nats per token, of each answer after the prompt; the lowest
/// fits best.
///
/// As in training, the embedding of `begin` stands in front of the prompt. `answers` are the token
/// ids of each answer with its end mark; an empty one scores infinity.
pub fn score(
    model: &TinyGptV,
    image_tokens: &Tensor,
    prompt: &PromptTokens,
    begin: u32,
    answers: &[Vec<u32>],
) -> Result<Vec<f32>, ModelError> {
    let rows = answers
        .iter()
        .enumerate()
        .map(|(slot, answer)| {
            let embeds = embed_answer(model, image_tokens, prompt, begin, answer)?;
            Ok(PrefillRow::plain(slot, embeds))
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    let Some(longest) = rows.iter().map(|row| row.embeds.dims()[0]).max() else {
        return Ok(Vec::new());
    };
    let cache = KvCache::for_prefill(model, rows.len(), longest)?;
    let (normed, _) = model.hidden(&rows, &cache, &mut unwatched)?;
    let mut end = 0;
    rows.iter()
        .zip(answers)
        .map(|(row, answer)| {
            end += row.embeds.dims()[0];
            if answer.is_empty() {
                return Ok(f32::INFINITY);
            }
            // The position before a token predicts it.
            let predicting = normed.narrow(0, end - answer.len() - 1, answer.len());
            let logits = model.logits(&predicting.during("scoring of an answer")?)?;
            loss(&logits, answer).during("scoring of an answer")
        })
        .collect()
}

/// `begin`, the prompt with its picture, and the answer as embeddings `(T, H)`.
pub(crate) fn embed_answer(
    model: &TinyGptV,
    image_tokens: &Tensor,
    prompt: &PromptTokens,
    begin: u32,
    answer: &[u32],
) -> Result<Tensor, ModelError> {
    let mut parts = vec![model.embed_tokens(&[begin])?, model.embed_prompt(prompt, image_tokens)?];
    if !answer.is_empty() {
        parts.push(model.embed_tokens(answer)?);
    }
    Tensor::cat(&parts, 0).during("joining of an answer")
}

/// Mean cross-entropy of `logits` `(n, vocab)` against `n` tokens.
fn loss(logits: &Tensor, tokens: &[u32]) -> candle_core::Result<f32> {
    let tokens = Tensor::new(tokens, logits.device())?.unsqueeze(1)?;
    let chosen = candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(&tokens, 1)?;
    chosen.mean_all()?.neg()?.to_scalar()
}
