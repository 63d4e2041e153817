//! What a training takes, counted from the dimensions.

use super::{Sight, TrainOptions};
use crate::ModelConfig;

/// Bytes and operations of a training before it begins.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TrainingPlan {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Bytes of them, of their gradients and of the optimizer's memory.
    pub learning_bytes: u64,
    /// Bytes of the language model's matrices: `weight_bits` each, going forward and, on a CPU, turned round in 16 bits
    /// going back.
    pub matrix_bytes: u64,
    /// Bytes of what is kept of one micro-batch for the way back.
    pub activation_bytes: u64,
    /// Bytes of what is kept of each picture.
    pub picture_bytes: u64,
    /// Floating-point operations of one step.
    pub step_flops: f64,
}

impl TrainingPlan {
    /// For `batch` samples of `tokens` a step, `micro` at a time, with matrices of `weight_bits` bits a number.
    pub fn new(
        config: &ModelConfig,
        options: &TrainOptions,
        weight_bits: f64,
        (batch, micro, tokens): (usize, usize, usize),
        on_cpu: bool,
    ) -> Self {
        let lm = &config.lm;
        let (width, hidden, layers) =
            (lm.hidden_size as u64, lm.intermediate_size as u64, lm.num_layers as u64);
        let sizes = |target: &str| match target {
            "query_key_value" => (width, 3 * width),
            "fc1" => (width, hidden),
            "fc2" => (hidden, width),
            _ => (width, width),
        };
        let changes: u64 = options
            .targets
            .iter()
            .map(|target| sizes(target))
            .map(|(inputs, outputs)| options.rank as u64 * (inputs + outputs))
            .sum();
        let norms = if options.norms { layers * 2 * (width + lm.head_dim() as u64) + width } else { 0 };
        let (qformer, projections) = between(config, options);
        let parameters = layers * changes + norms + qformer + projections;
        let matrices = layers * width * (4 * width + 2 * hidden) + lm.vocab_size as u64 * width;
        let both_ways = weight_bits / 8.0 + if on_cpu { 2.0 } else { 0.0 };
        let places = (micro * tokens) as u64;
        // For each token: the stream and both norms' inputs, the fused projection with its parts, four forms of the hidden
        // layer, and for each pair of tokens and head a score and its share.
        let per_token = layers * (14 * width + 5 * hidden);
        let scores = layers * (micro * lm.num_heads * tokens * tokens) as u64 * 2;
        let logits = places * lm.vocab_size as u64 * 3 / 2;
        // Forward, and back to the inputs alone: the matrices do not learn.
        let step_flops = 4.0 * (batch * tokens) as f64 * matrices as f64;
        Self {
            parameters,
            learning_bytes: 16 * parameters,
            matrix_bytes: (matrices as f64 * both_ways) as u64 + lm.vocab_size as u64 * width * 2,
            activation_bytes: 4
                * (places * per_token + scores + logits + micro as u64 * before(config, options)),
            picture_bytes: picture_bytes(config, options.sight()),
            step_flops,
        }
    }

    /// Bytes in all for so many pictures, beside the vision tower, which is gone through before.
    pub fn bytes(&self, pictures: usize) -> u64 {
        self.learning_bytes + self.matrix_bytes + self.activation_bytes + pictures as u64 * self.picture_bytes
    }
}

/// Numbers that are trained between vision tower and language model: in the Q-Former, and of both projections.
fn between(config: &ModelConfig, options: &TrainOptions) -> (u64, u64) {
    let (dimensions, picture) = (&config.qformer, config.vision.embed_dim as u64);
    let (width, hidden) = (dimensions.hidden_size as u64, dimensions.intermediate_size as u64);
    let attention = |source: u64| 2 * (2 * width) + 2 * (source + width);
    let layer = |index: usize| {
        let to_picture = if dimensions.has_cross_attention(index) { attention(picture) } else { 0 };
        attention(width) + to_picture + 2 * (width + hidden)
    };
    let qformer: u64 = (0..dimensions.num_layers).map(|index| options.rank as u64 * layer(index)).sum();
    let (middle, outputs) = (config.projection.hidden as u64, config.lm.hidden_size as u64);
    let projections = (width + 1) * middle + (middle + 1) * outputs;
    (if options.qformer { qformer } else { 0 }, if options.projections { projections } else { 0 })
}

/// Numbers kept of one picture's way through Q-Former and projections, where they learn.
fn before(config: &ModelConfig, options: &TrainOptions) -> u64 {
    let (dimensions, patches) = (&config.qformer, config.vision.tokens(config.image_size) as u64);
    let (queries, width) = (dimensions.num_query_tokens as u64, dimensions.hidden_size as u64);
    let (hidden, heads) = (dimensions.intermediate_size as u64, dimensions.num_heads as u64);
    let to_itself = queries * (8 * width + 4 * hidden) + 2 * heads * queries * queries;
    let to_picture = queries * 6 * width + 4 * patches * width + 2 * heads * queries * patches;
    let layer = |index| to_itself + if dimensions.has_cross_attention(index) { to_picture } else { 0 };
    let projected = queries * 2 * (config.projection.hidden + config.lm.hidden_size) as u64;
    match options.sight() {
        Sight::ImageTokens => 0,
        Sight::Queries => projected,
        Sight::Features => projected + (0..dimensions.num_layers).map(layer).sum::<u64>(),
    }
}

fn picture_bytes(config: &ModelConfig, sight: Sight) -> u64 {
    let queries = config.qformer.num_query_tokens as u64;
    match sight {
        Sight::ImageTokens => 4 * queries * config.lm.hidden_size as u64,
        Sight::Queries => 4 * queries * config.qformer.hidden_size as u64,
        Sight::Features => 2 * (config.vision.tokens(config.image_size) * config.vision.embed_dim) as u64,
    }
}
