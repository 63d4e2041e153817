//! The two linear layers between Q-Former and language model, nothing between them.
use candle_core::{Module, Result, Tensor};

use crate::{
    ModelConfig, WeightError, Weights,
    linear::Linear,
    probe::{Point, Probe},
};

/// `llama_proj` and `llama_proj2`.
#[derive(Debug)]
pub(crate) struct Projector {
    first: Linear,
    second: Linear,
}

impl Projector {
    pub(crate) fn load(weights: &Weights, config: &ModelConfig) -> std::result::Result<Self, WeightError> {
        let hidden = config.projection.hidden;
        Ok(Self {
            first: weights.linear(config.qformer.hidden_size, hidden, "llama_proj")?,
            second: weights.linear(hidden, config.lm.hidden_size, "llama_proj2")?,
        })
    }

    /// Image tokens `(B, Q, H)` from Q-Former output `(B, Q, W)`.
    pub(crate) fn forward(&self, queries: &Tensor, probe: Probe) -> Result<Tensor> {
        let hidden = self.first.forward(queries)?;
        probe(Point::Projection, &hidden);
        self.second.forward(&hidden)
    }
}
