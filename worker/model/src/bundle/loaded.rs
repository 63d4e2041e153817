//! A bundle's network, ready to be driven.

use std::path::Path;

use super::golden::{Replay, replay};
use super::{BundleError, BundleManifest};
use crate::{
    Adapter, AdapterError, CaptionTokenizer, OwnKernels, PromptTemplates, TextTokenizer, TinyGptV,
    WeightMemory,
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
    /// Kernels of ours that it uses on its GPU.
    pub kernels: OwnKernels,
    pub(super) golden_picture: Vec<u8>,
}

impl LoadedModel {
    /// Opens an adapter for this network.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn adapter(&self, path: &Path) -> Result<Adapter, AdapterError> {
        Adapter::open(path, &self.model, &self.manifest.base_id())
    }

    /// Captions the golden picture and compares each token with the one recorded at pack time. Returns how many were
    /// second to another by a hair, as happens where a device rounds otherwise than the one that packed.
    ///
    /// # Errors
    /// [`BundleError::Golden`] when they differ, [`BundleError::GoldenRun`] when there is no caption at all.
    pub fn self_test(&self) -> Result<usize, BundleError> {
        let golden = &self.manifest.golden;
        let replayed =
            replay(&self.model, &self.tokenizer, &self.golden_picture, &golden.prompt, &golden.tokens);
        match replayed.map_err(BundleError::GoldenRun)? {
            Replay::Same { near_ties } => Ok(near_ties),
            Replay::Different(found) => Err(BundleError::Golden { expected: golden.tokens.clone(), found }),
        }
    }
}
