//! The BLIP-2 contrastive and matching heads.
use candle_core::{D, Module, Result, Tensor};

use crate::{
    ModelError, RetrievalConfig, VisionConfig, Weights,
    adapter::Shares,
    error::DuringStep,
    linear::Linear,
    norm::LayerNorm,
    probe::{Pause, Point, Probe, unwatched},
    qformer::{QFormer, TextSizes},
    vision::VisionTower,
};

/// Smallest length a vector is divided by.
const MIN_LENGTH: f64 = 1e-12;

/// Embeds pictures and texts into one space, and judges pairs of them.
#[derive(Debug)]
pub struct RetrievalHead {
    vision: Option<VisionTower>,
    vision_norm: LayerNorm,
    queries: Tensor,
    qformer: QFormer,
    vision_projection: Linear,
    text_projection: Linear,
    matching: Linear,
    config: RetrievalConfig,
}

impl RetrievalHead {
    /// Loads what stands below `itc`.
    pub(crate) fn load(
        weights: &Weights,
        config: &RetrievalConfig,
        vision: &VisionConfig,
    ) -> std::result::Result<Self, ModelError> {
        let width = config.qformer.hidden_size;
        let text = TextSizes { vocab_size: config.vocab_size, max_positions: config.max_positions };
        let bert = weights.pp("Qformer.bert");
        Ok(Self {
            vision: (!config.shared_vision)
                .then(|| VisionTower::load(&weights.pp("visual_encoder"), vision, &[config.image_size]))
                .transpose()?,
            vision_norm: LayerNorm::load(
                &weights.pp("ln_vision"),
                vision.embed_dim,
                config.post_layernorm_eps,
            )?,
            queries: weights.tensor((1, config.qformer.num_query_tokens, width), "query_tokens")?,
            qformer: QFormer::load(&bert, &config.qformer, vision.embed_dim, Some(text))?,
            vision_projection: weights.linear(width, config.embed_dim, "vision_proj")?,
            text_projection: weights.linear(width, config.embed_dim, "text_proj")?,
            matching: weights.linear(width, 2, "itm_head")?,
            config: config.clone(),
        })
    }

    /// The vision tower of its own, unless it shares the caption path's.
    pub(crate) fn vision(&self) -> Option<&VisionTower> {
        self.vision.as_ref()
    }

    /// The dimensions it was built with.
    pub fn config(&self) -> &RetrievalConfig {
        &self.config
    }

    /// One L2-normalised vector per query, `(B, Q, E)`, from vision features `(B, N, D)`.
    pub fn image_embeddings(&self, features: &Tensor) -> std::result::Result<Tensor, ModelError> {
        self.image_embeddings_watched(features, &mut unwatched)
    }

    /// As [`RetrievalHead::image_embeddings`], with a pause after every layer.
    pub fn image_embeddings_pausing(
        &self,
        features: &Tensor,
        pause: Pause,
    ) -> std::result::Result<Tensor, ModelError> {
        self.image_embeddings_watched(features, &mut |_, _| pause())
    }

    /// The L2-normalised vector `(E)` of a text's ids. A picture's score is the largest dot
    /// product with any of its vectors.
    pub fn text_embedding(&self, ids: &[u32]) -> std::result::Result<Tensor, ModelError> {
        self.text_embedding_watched(ids, ids.len(), &mut unwatched)
    }

    /// Natural logarithm of the odds that the text describes the picture, from one picture's features `(N, D)`. The
    /// probability is its logistic function, which rounds to 1 for all of the surest.
    pub fn match_log_odds(&self, features: &Tensor, ids: &[u32]) -> std::result::Result<f32, ModelError> {
        let logits = self.match_logits(features, ids)?;
        let odds = || (logits.get(1)? - logits.get(0)?)?.to_scalar();
        odds().during("the matching head")
    }

    /// Logits `(2)` of "does not match" and "matches".
    pub(crate) fn match_logits(
        &self,
        features: &Tensor,
        ids: &[u32],
    ) -> std::result::Result<Tensor, ModelError> {
        self.check_text(ids)?;
        let run = || {
            let picture = self.vision_norm.forward(&features.unsqueeze(0)?)?;
            let queries = self.qformer.queries_with_text(&self.queries, &picture, ids)?;
            self.matching.forward(&queries)?.mean(1)?.squeeze(0)
        };
        run().during("the matching head")
    }

    pub(crate) fn image_embeddings_watched(
        &self,
        features: &Tensor,
        probe: Probe,
    ) -> std::result::Result<Tensor, ModelError> {
        let mut run = || {
            let normed = self.vision_norm.forward(features)?;
            probe(Point::VisionNorm, &normed);
            let queries = self.qformer.queries(&self.queries, &normed, &Shares::default(), probe)?;
            normalise(&self.vision_projection.forward(&queries)?)
        };
        run().during("the image embedding")
    }

    /// Ids from `real` on are padding.
    pub(crate) fn text_embedding_watched(
        &self,
        ids: &[u32],
        real: usize,
        probe: Probe,
    ) -> std::result::Result<Tensor, ModelError> {
        self.check_text(ids)?;
        let mut run = || {
            let first = self.qformer.text(ids, real, probe)?.narrow(1, 0, 1)?;
            normalise(&self.text_projection.forward(&first)?)?.flatten_all()
        };
        run().during("the text embedding")
    }

    fn check_text(&self, ids: &[u32]) -> std::result::Result<(), ModelError> {
        let limit = self.config.max_positions;
        if ids.is_empty() || ids.len() > limit {
            return Err(ModelError::TextLength { tokens: ids.len(), limit });
        }
        let vocabulary = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(ModelError::UnknownToken { id, vocabulary }),
            None => Ok(()),
        }
    }
}

fn normalise(xs: &Tensor) -> Result<Tensor> {
    let lengths = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(MIN_LENGTH)?;
    xs.broadcast_div(&lengths)
}
