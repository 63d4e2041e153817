//! The two linear layers between Q-Former and language model, nothing between them.
use candle_core::{Module, Result, Tensor};

use crate::{
    ModelConfig, WeightError, Weights,
    linear::Linear,
    probe::{Point, Probe, unwatched},
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

    /// From weights `(outputs, inputs)` and biases of both layers, in f32.
    pub(crate) fn new(first: (&Tensor, Tensor), second: (&Tensor, Tensor)) -> Result<Self> {
        Ok(Self {
            first: Linear::of_floats(first.0, Some(first.1))?,
            second: Linear::of_floats(second.0, Some(second.1))?,
        })
    }

    /// `llama_proj` and `llama_proj2`.
    pub(crate) fn layers(&self) -> [&Linear; 2] {
        [&self.first, &self.second]
    }

    /// Image tokens `(B, Q, H)` from Q-Former output `(B, Q, W)`.
    pub(crate) fn watched(&self, queries: &Tensor, probe: Probe) -> Result<Tensor> {
        let hidden = self.first.forward(queries)?;
        probe(Point::Projection, &hidden);
        self.second.forward(&hidden)
    }
}

impl Module for Projector {
    fn forward(&self, queries: &Tensor) -> Result<Tensor> {
        self.watched(queries, &mut unwatched)
    }
}
