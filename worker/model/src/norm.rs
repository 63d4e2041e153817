//! The two norms, in f32.
use candle_core::{Module, Result, Tensor};

use crate::{WeightError, Weights};

/// LayerNorm over the last dimension with weight and bias.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn load(weights: &Weights, width: usize, eps: f64) -> std::result::Result<Self, WeightError> {
        Ok(Self {
            weight: weights.tensor(width, "weight")?,
            bias: weights.tensor(width, "bias")?,
            eps: eps as f32,
        })
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(&xs.contiguous()?, &self.weight, &self.bias, self.eps)
    }
}

/// RMSNorm over the last dimension, weight only.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(weights: &Weights, width: usize, eps: f64) -> std::result::Result<Self, WeightError> {
        Ok(Self { weight: weights.tensor(width, "weight")?, eps: eps as f32 })
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&xs.contiguous()?, &self.weight, self.eps)
    }
}
