//! Every dimension of the model. The networks take nothing else for granted.
use serde::{Deserialize, Serialize};

/// Dimensions of a whole model, as stored in a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Side of the square picture that the caption path sees, in pixels.
    pub image_size: usize,
    /// The vision tower.
    pub vision: VisionConfig,
    /// The Q-Former of the caption path.
    pub qformer: QFormerConfig,
    /// The two projections between Q-Former and language model.
    pub projection: ProjectionConfig,
    /// The language model.
    pub lm: PhiConfig,
    /// The contrastive and matching heads, if the bundle has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalConfig>,
}

/// Dimensions of the EVA vision tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub embed_dim: usize,
    /// Blocks in use (a published file may hold one more).
    pub depth: usize,
    /// Attention heads per block.
    pub num_heads: usize,
    /// Hidden width of a block's MLP.
    pub mlp_hidden: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Epsilon of the blocks' norms.
    pub norm_eps: f64,
    /// Picture side that the stored position table belongs to.
    pub pretrain_image_size: usize,
    /// Epsilon of `ln_vision`, the norm between the tower and the Q-Former.
    pub ln_vision_eps: f64,
}

/// Dimensions of a Q-Former (a BERT whose queries attend to the picture).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QFormerConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Attention heads per layer.
    pub num_heads: usize,
    /// Hidden width of the feed-forward parts.
    pub intermediate_size: usize,
    /// Every how many layers the queries attend to the picture, beginning with layer 0.
    pub cross_attention_freq: usize,
    /// Learned queries, which is also the number of image tokens.
    pub num_query_tokens: usize,
    /// Epsilon of all its norms.
    pub layer_norm_eps: f64,
}

/// Width between the two projections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionConfig {
    /// Outputs of `llama_proj`, inputs of `llama_proj2`.
    pub hidden: usize,
}

/// Dimensions of the modified Phi-2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhiConfig {
    /// Rows of the token table and of the output head; a tokenizer may use fewer.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Hidden width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Attention heads per layer.
    pub num_heads: usize,
    /// Positions the rotary tables are made for.
    pub max_positions: usize,
    /// Leading dimensions of each head that are rotated (even).
    pub rotary_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of all LayerNorms.
    pub layer_norm_eps: f64,
    /// Epsilon of the RMSNorm after attention.
    pub post_layernorm_eps: f64,
}

/// Dimensions of the BLIP-2 contrastive and matching heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalConfig {
    /// The Q-Former of the heads, which has a text path as well.
    pub qformer: QFormerConfig,
    /// Side of the square picture that the heads see, in pixels.
    pub image_size: usize,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Rows of the text position table.
    pub max_positions: usize,
    /// Tokens a text is cut to, `[CLS]` and `[SEP]` included.
    pub max_text_tokens: usize,
    /// Width of the compared vectors.
    pub embed_dim: usize,
    /// Epsilon of the norm after the vision tower.
    pub post_layernorm_eps: f64,
    /// Whether the heads read the caption path's vision tower instead of their own.
    pub shared_vision: bool,
}

/// Two dimensions that cannot both be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    field: String,
    reason: String,
}

impl ModelConfig {
    /// Whether one pass through the vision tower serves captions and retrieval.
    pub(crate) fn shares_vision_pass(&self) -> bool {
        self.retrieval
            .as_ref()
            .is_some_and(|retrieval| retrieval.shared_vision && retrieval.image_size == self.image_size)
    }

    /// The side of the largest square that it sees.
    pub fn largest_image_size(&self) -> usize {
        self.retrieval.as_ref().map_or(self.image_size, |heads| heads.image_size.max(self.image_size))
    }

    /// The published model's dimensions with the given caption picture side (224 for stages 1 to
    /// 3, 448 for stage 4), without retrieval heads.
    pub fn tinygpt_v(image_size: usize) -> Self {
        Self {
            image_size,
            vision: VisionConfig {
                embed_dim: 1408,
                depth: 39,
                num_heads: 16,
                mlp_hidden: 6144,
                patch_size: 14,
                norm_eps: 1e-6,
                pretrain_image_size: 224,
                ln_vision_eps: 1e-5,
            },
            qformer: QFormerConfig {
                hidden_size: 768,
                num_layers: 12,
                num_heads: 12,
                intermediate_size: 3072,
                cross_attention_freq: 2,
                num_query_tokens: 32,
                layer_norm_eps: 1e-12,
            },
            projection: ProjectionConfig { hidden: 4096 },
            lm: PhiConfig {
                vocab_size: 51200,
                hidden_size: 2560,
                intermediate_size: 10240,
                num_layers: 32,
                num_heads: 32,
                max_positions: 2048,
                rotary_dim: 32,
                rope_theta: 10_000.0,
                layer_norm_eps: 1e-5,
                post_layernorm_eps: 1e-6,
            },
            retrieval: None,
        }
    }

    /// Checks that the dimensions fit each other; loading does it first of all.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.vision.validate()?;
        self.vision.validate_image_size("image_size", self.image_size)?;
        self.qformer.validate("qformer")?;
        positive("projection.hidden", self.projection.hidden)?;
        self.lm.validate()?;
        if let Some(retrieval) = &self.retrieval {
            retrieval.qformer.validate("retrieval.qformer")?;
            self.vision.validate_image_size("retrieval.image_size", retrieval.image_size)?;
            positive("retrieval.vocab_size", retrieval.vocab_size)?;
            positive("retrieval.embed_dim", retrieval.embed_dim)?;
            if !(2..=retrieval.max_positions).contains(&retrieval.max_text_tokens) {
                return Err(ConfigError::new(
                    "retrieval.max_text_tokens",
                    format!(
                        "{} is not between 2 and the {} text positions",
                        retrieval.max_text_tokens, retrieval.max_positions
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl RetrievalConfig {
    /// The published `blip2-itm-vit-g` dimensions, reading the caption path's vision tower.
    pub fn blip2_itm_vit_g() -> Self {
        Self {
            qformer: ModelConfig::tinygpt_v(224).qformer,
            image_size: 224,
            vocab_size: 30523,
            max_positions: 512,
            max_text_tokens: 32,
            embed_dim: 256,
            post_layernorm_eps: 1e-6,
            shared_vision: true,
        }
    }
}

impl VisionConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.embed_dim / self.num_heads
    }

    /// Tokens of a picture of the given side: its patches and the class token.
    pub fn tokens(&self, image_size: usize) -> usize {
        (image_size / self.patch_size).pow(2) + 1
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("vision.depth", self.depth)?;
        positive("vision.mlp_hidden", self.mlp_hidden)?;
        positive("vision.patch_size", self.patch_size)?;
        divides("vision.num_heads", self.num_heads, "embed_dim", self.embed_dim)?;
        self.validate_image_size("vision.pretrain_image_size", self.pretrain_image_size)
    }

    fn validate_image_size(&self, field: &str, size: usize) -> Result<(), ConfigError> {
        divides("vision.patch_size", self.patch_size, field, size)
    }
}

impl QFormerConfig {
    /// Whether the queries attend to the picture in this layer.
    pub fn has_cross_attention(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.cross_attention_freq)
    }

    fn validate(&self, name: &str) -> Result<(), ConfigError> {
        positive(&format!("{name}.num_layers"), self.num_layers)?;
        positive(&format!("{name}.intermediate_size"), self.intermediate_size)?;
        positive(&format!("{name}.num_query_tokens"), self.num_query_tokens)?;
        positive(&format!("{name}.cross_attention_freq"), self.cross_attention_freq)?;
        divides(&format!("{name}.num_heads"), self.num_heads, "hidden_size", self.hidden_size)
    }
}

impl PhiConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    fn validate(&self) -> Result<(), ConfigError> {
        positive("lm.vocab_size", self.vocab_size)?;
        positive("lm.intermediate_size", self.intermediate_size)?;
        positive("lm.num_layers", self.num_layers)?;
        positive("lm.max_positions", self.max_positions)?;
        divides("lm.num_heads", self.num_heads, "hidden_size", self.hidden_size)?;
        if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim() {
            return Err(ConfigError::new(
                "lm.rotary_dim",
                format!("{} must be even and at most the head's {}", self.rotary_dim, self.head_dim()),
            ));
        }
        Ok(())
    }
}

impl ConfigError {
    pub(crate) fn new(field: &str, reason: String) -> Self {
        Self { field: field.to_owned(), reason }
    }
}

fn positive(field: &str, value: usize) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(ConfigError::new(field, "must not be 0".to_owned()));
    }
    Ok(())
}

fn divides(field: &str, divisor: usize, of: &str, value: usize) -> Result<(), ConfigError> {
    positive(field, divisor)?;
    positive(of, value)?;
    if !value.is_multiple_of(divisor) {
        return Err(ConfigError::new(field, format!("{divisor} does not divide {of} = {value}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn published_dimensions_are_consistent_and_survive_json() {
        let mut config = ModelConfig::tinygpt_v(448);
        config.retrieval = Some(RetrievalConfig::blip2_itm_vit_g());
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        assert_eq!(config.vision.tokens(448), 1025);
        assert_eq!(config.lm.head_dim(), 80);
    }

    #[test]
    fn contradictions_are_named() {
        let mut config = ModelConfig::tinygpt_v(224);
        config.image_size = 225;
        assert!(config.validate().unwrap_err().to_string().contains("image_size"));
        config.image_size = 224;
        config.lm.rotary_dim = 81;
        assert!(config.validate().unwrap_err().to_string().contains("rotary_dim"));
        config.lm.rotary_dim = 32;
        config.qformer.num_heads = 0;
        assert!(config.validate().unwrap_err().to_string().contains("qformer.num_heads"));
    }
}
