//! What a training takes, counted from the dimensions.

use super::TrainOptions;
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
        let parameters = layers * changes + norms;
        let matrices = layers * width * (4 * width + 2 * hidden) + lm.vocab_size as u64 * width;
        let both_ways = weight_bits / 8.0 + if on_cpu { 2.0 } else { 0.0 };
        let places = (micro * tokens) as u64;
        // For each token: the stream and both norms' inputs, the fused projection with its parts, four forms of the hidden
        // layer, and for each pair of tokens and head three forms of a score.
        let per_token = layers * (14 * width + 5 * hidden);
        let scores = layers * (micro * lm.num_heads * tokens * tokens) as u64 * 3;
        let logits = places * lm.vocab_size as u64 * 3 / 2;
        // Forward, and back to the inputs alone: the matrices do not learn.
        let step_flops = 4.0 * (batch * tokens) as f64 * matrices as f64;
        Self {
            parameters,
            learning_bytes: 16 * parameters,
            matrix_bytes: (matrices as f64 * both_ways) as u64 + lm.vocab_size as u64 * width * 2,
            activation_bytes: 4 * (places * per_token + scores + logits),
            step_flops,
        }
    }

    /// Bytes in all, beside the vision tower, which is gone through before.
    pub fn bytes(&self) -> u64 {
        self.learning_bytes + self.matrix_bytes + self.activation_bytes
    }
}
