//! The whole network: picture and prompt in, logits out.
use candle_core::Tensor;

use crate::{KvCache, ModelConfig, ModelError, PromptTokens, RetrievalHead, Weights};

/// One sequence's first step.
#[derive(Clone, Debug)]
pub struct PrefillRow {
    /// Its seat in the cache.
    pub slot: usize,
    /// Its prompt as embeddings `(tokens, hidden)`, from [`TinyGptV::embed_prompt`].
    pub embeds: Tensor,
}

/// One sequence's next step.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRow {
    /// Its seat in the cache.
    pub slot: usize,
    /// The token it said last.
    pub token: u32,
}

/// TinyGPT-V with its retrieval heads, if it has any.
#[derive(Debug)]
pub struct TinyGptV {
    retrieval: Option<RetrievalHead>,
    config: ModelConfig,
}

impl TinyGptV {
    /// Builds the network from canonical tensors; refuses a missing or misshaped one by name.
    pub fn load(_weights: &Weights, _config: &ModelConfig) -> Result<Self, ModelError> {
        unimplemented!()
    }

    /// The dimensions it was built with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The retrieval heads.
    pub fn retrieval(&self) -> Option<&RetrievalHead> {
        self.retrieval.as_ref()
    }

    /// Output of the vision tower `(B, N, D)` for pixels `(B, 3, S, S)` of the caption path's
    /// size, before any final norm.
    pub fn vision_features(&self, _pixels: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// Output of the vision tower that the retrieval heads read, for pixels `(B, 3, S, S)` of
    /// their size: the caption path's tower or their own. When both sizes are equal and the tower
    /// is shared ([`TinyGptV::shares_vision_pass`]), [`TinyGptV::vision_features`] gives the same.
    pub fn retrieval_features(&self, _pixels: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// Whether one pass through the vision tower serves captions and retrieval.
    pub fn shares_vision_pass(&self) -> bool {
        unimplemented!()
    }

    /// Image tokens `(B, Q, H)` for the language model from vision features `(B, N, D)`.
    pub fn image_tokens(&self, _features: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// The prompt `(T, H)` with one picture's image tokens `(Q, H)` in its place.
    pub fn embed_prompt(&self, _prompt: &PromptTokens, _image_tokens: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// Appends each row's embeddings to its slot; logits `(rows, vocab)` of each row's last
    /// position. Rows may have any lengths; a slot appears at most once.
    pub fn prefill(&self, _rows: &[PrefillRow], _cache: &mut KvCache) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// Appends one token to each row's slot; logits `(rows, vocab)`.
    pub fn decode(&self, _rows: &[DecodeRow], _cache: &mut KvCache) -> Result<Tensor, ModelError> {
        unimplemented!()
    }
}
