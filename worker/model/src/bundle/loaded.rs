//! A bundle's network, ready to be driven.

use candle_core::{IndexOp, Tensor};

use super::{BundleError, BundleManifest};
use crate::generate::{GenerateOptions, generate};
use crate::preprocess::{DecodeLimits, decode, pixel_values, prepare};
use crate::{
    CaptionTokenizer, PromptTemplates, PromptTokens, SamplingOptions, TextTokenizer, TinyGptV, WeightMemory,
};

/// A network with all that is needed to talk to it.
#[derive(Debug)]
pub struct LoadedModel {
    /// The network.
    pub model: TinyGptV,
    /// The language model's tokenizer.
    pub tokenizer: CaptionTokenizer,
    /// The retrieval heads' tokenizer.
    pub text_tokenizer: Option<TextTokenizer>,
    /// The bundle's prompts.
    pub prompts: PromptTemplates,
    /// The bundle's manifest.
    pub manifest: BundleManifest,
    /// What the weights take on the device.
    pub memory: WeightMemory,
    pub(super) golden_picture: Vec<u8>,
}

impl LoadedModel {
    /// Captions the golden picture and compares the tokens with those recorded at pack time.
    ///
    /// # Errors
    /// [`BundleError::Golden`] when they differ, [`BundleError::GoldenRun`] when there is no caption at all.
    pub fn self_test(&self) -> Result<(), BundleError> {
        let golden = &self.manifest.golden;
        let found = greedy_tokens(
            &self.model,
            &self.tokenizer,
            &self.golden_picture,
            &golden.prompt,
            golden.tokens.len(),
        )
        .map_err(BundleError::GoldenRun)?;
        if found == golden.tokens {
            return Ok(());
        }
        Err(BundleError::Golden { expected: golden.tokens.clone(), found })
    }
}

/// The first `count` greedy tokens, or fewer where the answer ends, about one picture file.
///
/// # Errors
/// Whatever fails on the way from bytes to tokens.
pub fn greedy_tokens(
    model: &TinyGptV,
    tokenizer: &CaptionTokenizer,
    picture: &[u8],
    prompt: &str,
    count: usize,
) -> Result<Vec<u32>, Box<dyn std::error::Error + Send + Sync>> {
    let picture = decode(picture, &DecodeLimits::default())?;
    let prepared = prepare(&picture, model.config());
    let pixels: Tensor = pixel_values(&[&prepared.caption], model.device())?;
    let image_tokens = model.image_tokens(&model.vision_features(&pixels)?)?.i(0)?;
    let embeds = model.embed_prompt(&PromptTokens::new(tokenizer, prompt)?, &image_tokens)?;
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
