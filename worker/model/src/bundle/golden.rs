//! The golden tokens: what a bundle's network said about its golden picture when it was packed.

use candle_core::{IndexOp, Tensor};

use crate::generate::{GenerateOptions, generate, rows_of};
use crate::preprocess::{DecodeLimits, decode, pixel_values, prepare};
use crate::{CaptionTokenizer, DecodeRow, KvCache, PrefillRow, PromptTokens, SamplingOptions, TinyGptV};

/// Whatever fails on the way from bytes to tokens.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How far below the most likely token the recorded one may lie, as a share of the distance from the mean logit to the
/// largest. Devices round differently, so that two tokens which are almost equally likely may change places; a network
/// that computes something else puts the recorded token anywhere.
const NEAR_TIE: f32 = 0.05;

/// How a network's words compare with those recorded.
pub(super) enum Replay {
    /// Each recorded token is the most likely one, but for so many near ties.
    Same {
        /// Tokens that were second to another by a hair.
        near_ties: usize,
    },
    /// The most likely tokens up to the first one that is too far off.
    Different(Vec<u32>),
}

/// The first `count` greedy tokens, or fewer where the answer ends, about one picture file.
///
/// # Errors
/// Whatever fails on the way from bytes to tokens.
pub(crate) fn greedy_tokens(
    model: &TinyGptV,
    tokenizer: &CaptionTokenizer,
    picture: &[u8],
    prompt: &str,
    count: usize,
) -> Result<Vec<u32>, AnyError> {
    let embeds = embed(model, tokenizer, picture, prompt)?;
    let end = tokenizer.stop_sequence().unwrap_or_else(|| tokenizer.end_of_text());
    let options = GenerateOptions {
        sampling: SamplingOptions { max_new_tokens: count, ..SamplingOptions::default() },
        begin: tokenizer.end_of_text(),
        end,
        pad: end,
        stop: vec![tokenizer.end_of_text()],
        valid_vocab: tokenizer.vocab_len(),
    };
    let mut rows = generate(model, &[embeds], &options)?;
    let row = rows.pop().unwrap_or_default();
    Ok(row.into_iter().skip(1).collect())
}

/// Puts the recorded tokens into the network's mouth one by one and looks at what it would have said instead.
///
/// # Errors
/// Whatever fails on the way from bytes to tokens.
pub(super) fn replay(
    model: &TinyGptV,
    tokenizer: &CaptionTokenizer,
    picture: &[u8],
    prompt: &str,
    recorded: &[u32],
) -> Result<Replay, AnyError> {
    let embeds = embed(model, tokenizer, picture, prompt)?;
    let mut cache = KvCache::for_prefill(model, 1, embeds.dim(0)? + recorded.len())?;
    let mut logits = model.prefill(&[PrefillRow::plain(0, embeds)], &mut cache)?;
    let (mut found, mut near_ties) = (Vec::new(), 0);
    for (said, &token) in recorded.iter().enumerate() {
        let row = rows_of(&logits)?.pop().unwrap_or_default();
        let valid = row.get(..tokenizer.vocab_len()).unwrap_or(&row);
        let best = most_likely(valid);
        found.push(best);
        if best != token {
            if !is_near_tie(valid, best, token) {
                return Ok(Replay::Different(found));
            }
            near_ties += 1;
        }
        if said + 1 < recorded.len() {
            logits = model.decode(&[DecodeRow { slot: 0, token }], &mut cache)?;
        }
    }
    Ok(Replay::Same { near_ties })
}

fn embed(
    model: &TinyGptV,
    tokenizer: &CaptionTokenizer,
    picture: &[u8],
    prompt: &str,
) -> Result<Tensor, AnyError> {
    let picture = decode(picture, &DecodeLimits::default())?;
    let prepared = prepare(&picture, model.config());
    let pixels = pixel_values(&[&prepared.caption], model.device())?;
    let image_tokens = model.image_tokens(&model.vision_features(&pixels)?)?.i(0)?;
    Ok(model.embed_prompt(&PromptTokens::new(tokenizer, prompt)?, &image_tokens)?)
}

fn most_likely(logits: &[f32]) -> u32 {
    let larger = |best: (usize, f32), (token, &logit): (usize, &f32)| {
        if logit > best.1 { (token, logit) } else { best }
    };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u32
}

fn is_near_tie(logits: &[f32], best: u32, token: u32) -> bool {
    let (Some(&most), Some(&recorded)) = (logits.get(best as usize), logits.get(token as usize)) else {
        return false;
    };
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    // Written so that a NaN anywhere is no tie.
    most - recorded <= NEAR_TIE * (most - mean)
}

#[cfg(test)]
mod tests {
    use super::{is_near_tie, most_likely};

    #[test]
    fn the_first_of_the_largest_is_most_likely() {
        assert_eq!(most_likely(&[0.0, 3.0, 3.0, -1.0]), 1);
        assert_eq!(most_likely(&[f32::NAN, 1.0]), 1);
    }

    #[test]
    fn only_a_hair_is_a_tie() {
        let logits = [0.0, 0.0, 0.0, 9.9, 10.0, 9.0];
        assert!(is_near_tie(&logits, 4, 3));
        assert!(!is_near_tie(&logits, 4, 5));
        assert!(!is_near_tie(&logits, 4, 6), "there is no such token");
        assert!(!is_near_tie(&[f32::NAN, 1.0, 1.0], 1, 2), "noise ties with nothing");
    }
}
