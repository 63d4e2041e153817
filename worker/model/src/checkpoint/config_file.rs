//! Dimensions from the configuration files that lie beside checkpoints.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::label_of;
use super::{CheckpointError, LoraConfig};
use crate::{ModelConfig, PhiConfig, ProjectionConfig, QFormerConfig, RetrievalConfig, VisionConfig};

/// `config.json` that describes a whole checkpoint folder of other than the published size.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckpointConfig {
    vit: Vit,
    qformer: Qformer,
    proj: Projection,
    lm: Phi,
    #[serde(default)]
    lora: Option<Lora>,
    #[serde(default)]
    image_sizes: std::collections::BTreeMap<String, usize>,
}

#[derive(Debug, Clone, Deserialize)]
struct Vit {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    #[serde(default = "published::mlp_ratio")]
    mlp_ratio: f64,
    mlp_hidden: Option<usize>,
    #[serde(default = "published::patch_size")]
    patch_size: usize,
    #[serde(default = "published::vit_eps")]
    norm_eps: f64,
    #[serde(default = "published::pretrain_image_size")]
    pretrain_image_size: usize,
    #[serde(default = "published::layer_norm_eps")]
    ln_vision_eps: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Qformer {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "published::cross_attention_freq", alias = "cross_attention_frequency")]
    cross_attention_freq: usize,
    num_query_tokens: usize,
    #[serde(default = "published::bert_eps")]
    layer_norm_eps: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Projection {
    /// outputs and inputs are read from the files; this is `[inputs, outputs]`
    llama_proj: [usize; 2],
}

/// Phi-2's `config.json`, in transformers' words or in those of the original repository.
#[derive(Debug, Clone, Deserialize)]
struct Phi {
    vocab_size: usize,
    #[serde(alias = "n_embd")]
    hidden_size: usize,
    #[serde(alias = "n_inner")]
    intermediate_size: Option<usize>,
    #[serde(alias = "n_layer")]
    num_hidden_layers: usize,
    #[serde(alias = "n_head")]
    num_attention_heads: usize,
    #[serde(default = "published::max_positions", alias = "n_positions")]
    max_position_embeddings: usize,
    rotary_dim: Option<usize>,
    partial_rotary_factor: Option<f64>,
    #[serde(default = "published::rope_theta")]
    rope_theta: f64,
    #[serde(default = "published::layer_norm_eps", alias = "layer_norm_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "published::rms_eps")]
    post_layernorm_rms_eps: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Lora {
    r: usize,
    alpha: f64,
}

/// `config.json` of `blip2-itm-vit-g`; absent values are the published ones.
#[derive(Debug, Clone, Deserialize)]
struct Blip2 {
    #[serde(default = "published::retrieval_dim")]
    image_text_hidden_size: usize,
    #[serde(default = "published::query_tokens")]
    num_query_tokens: usize,
    #[serde(default)]
    qformer_config: Blip2Qformer,
    #[serde(default)]
    vision_config: Blip2Vision,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Blip2Qformer {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    cross_attention_frequency: usize,
    layer_norm_eps: f64,
    vocab_size: usize,
    max_position_embeddings: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Blip2Vision {
    image_size: usize,
    layer_norm_eps: f64,
}

impl Default for Blip2Qformer {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            cross_attention_frequency: 2,
            layer_norm_eps: 1e-12,
            vocab_size: 30523,
            max_position_embeddings: 512,
        }
    }
}

impl Default for Blip2Vision {
    fn default() -> Self {
        Self { image_size: 224, layer_norm_eps: 1e-6 }
    }
}

/// Values of the published models, for keys that a file leaves out.
mod published {
    pub(super) fn mlp_ratio() -> f64 {
        4.3637
    }
    pub(super) fn patch_size() -> usize {
        14
    }
    pub(super) fn vit_eps() -> f64 {
        1e-6
    }
    pub(super) fn pretrain_image_size() -> usize {
        224
    }
    pub(super) fn layer_norm_eps() -> f64 {
        1e-5
    }
    pub(super) fn cross_attention_freq() -> usize {
        2
    }
    pub(super) fn bert_eps() -> f64 {
        1e-12
    }
    pub(super) fn max_positions() -> usize {
        2048
    }
    pub(super) fn rope_theta() -> f64 {
        10_000.0
    }
    pub(super) fn rms_eps() -> f64 {
        1e-6
    }
    pub(super) fn retrieval_dim() -> usize {
        256
    }
    pub(super) fn query_tokens() -> usize {
        32
    }
}

/// Side of the caption picture in the published stages.
pub fn published_image_size(stage: u8) -> usize {
    if stage == 4 { 448 } else { 224 }
}

impl CheckpointConfig {
    /// Read the file.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        read_json(path)
    }

    /// Dimensions for one stage, without retrieval heads.
    pub fn model(&self, stage: u8) -> ModelConfig {
        let Vit {
            embed_dim, depth, num_heads, patch_size, norm_eps, pretrain_image_size, ln_vision_eps, ..
        } = self.vit;
        ModelConfig {
            image_size: self
                .image_sizes
                .get(&format!("stage{stage}"))
                .copied()
                .unwrap_or_else(|| published_image_size(stage)),
            vision: VisionConfig {
                embed_dim,
                depth,
                num_heads,
                mlp_hidden: self.vit.mlp_hidden.unwrap_or((embed_dim as f64 * self.vit.mlp_ratio) as usize),
                patch_size,
                norm_eps,
                pretrain_image_size,
                ln_vision_eps,
            },
            qformer: QFormerConfig {
                hidden_size: self.qformer.hidden_size,
                num_layers: self.qformer.num_hidden_layers,
                num_heads: self.qformer.num_attention_heads,
                intermediate_size: self.qformer.intermediate_size,
                cross_attention_freq: self.qformer.cross_attention_freq,
                num_query_tokens: self.qformer.num_query_tokens,
                layer_norm_eps: self.qformer.layer_norm_eps,
            },
            projection: ProjectionConfig { hidden: self.proj.llama_proj[1] },
            lm: self.lm.config(),
            retrieval: None,
        }
    }

    /// Rank and scaling of the low-rank changes, if stated.
    pub fn lora(&self) -> Option<LoraConfig> {
        self.lora.as_ref().map(|lora| LoraConfig { rank: lora.r, alpha: lora.alpha })
    }
}

impl Phi {
    fn config(&self) -> PhiConfig {
        let head_dim = self.hidden_size / self.num_attention_heads.max(1);
        let rotary_factor = self.partial_rotary_factor.unwrap_or(0.5);
        PhiConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size.unwrap_or(4 * self.hidden_size),
            num_layers: self.num_hidden_layers,
            num_heads: self.num_attention_heads,
            max_positions: self.max_position_embeddings,
            rotary_dim: self.rotary_dim.unwrap_or((rotary_factor * head_dim as f64) as usize),
            rope_theta: self.rope_theta,
            layer_norm_eps: self.layer_norm_eps,
            post_layernorm_eps: self.post_layernorm_rms_eps,
        }
    }
}

/// Dimensions of the language model from Phi-2's own `config.json`.
pub fn read_phi_config(path: &Path) -> Result<PhiConfig, CheckpointError> {
    read_json::<Phi>(path).map(|phi| phi.config())
}

/// Dimensions of the retrieval heads from the `config.json` beside them. Whether the vision tower is
/// shared is found out later, by comparing tensors.
pub fn read_retrieval_config(path: &Path) -> Result<RetrievalConfig, CheckpointError> {
    let Blip2 { image_text_hidden_size, num_query_tokens, qformer_config: qformer, vision_config: vision } =
        read_json(path)?;
    Ok(RetrievalConfig {
        qformer: QFormerConfig {
            hidden_size: qformer.hidden_size,
            num_layers: qformer.num_hidden_layers,
            num_heads: qformer.num_attention_heads,
            intermediate_size: qformer.intermediate_size,
            cross_attention_freq: qformer.cross_attention_frequency,
            num_query_tokens,
            layer_norm_eps: qformer.layer_norm_eps,
        },
        image_size: vision.image_size,
        vocab_size: qformer.vocab_size,
        max_positions: qformer.max_position_embeddings,
        max_text_tokens: qformer.max_position_embeddings.min(32),
        embed_dim: image_text_hidden_size,
        post_layernorm_eps: vision.layer_norm_eps,
        shared_vision: true,
    })
}

/// Parse a JSON file, naming it in every error.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = std::fs::read(path).map_err(|source| CheckpointError::Io {
        operation: "read",
        file: path.display().to_string(),
        source,
    })?;
    serde_json::from_slice(&text)
        .map_err(|error| CheckpointError::Config { file: label_of(path), reason: error.to_string() })
}
