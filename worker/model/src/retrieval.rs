//! The BLIP-2 contrastive and matching heads.
use candle_core::Tensor;

use crate::ModelError;

/// Embeds pictures and texts into one space, and judges pairs of them.
#[derive(Debug)]
pub struct RetrievalHead {}

impl RetrievalHead {
    /// One L2-normalised vector per query, `(B, Q, E)`, from vision features `(B, N, D)`.
    pub fn image_embeddings(&self, _features: &Tensor) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// The L2-normalised vector `(E)` of a text's ids. A picture's score is the largest dot
    /// product with any of its vectors.
    pub fn text_embedding(&self, _ids: &[u32]) -> Result<Tensor, ModelError> {
        unimplemented!()
    }

    /// Probability that the text describes the picture, from one picture's features `(N, D)`.
    pub fn match_probability(&self, _features: &Tensor, _ids: &[u32]) -> Result<f32, ModelError> {
        unimplemented!()
    }
}
