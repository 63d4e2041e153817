//! One low-rank change of a linear layer.

use candle_core::{Module, Result, Tensor};

use crate::linear::Linear;

/// `x ↦ (x Aᵀ) Bᵀ`, its scaling folded into `B`.
#[derive(Debug)]
pub(crate) struct LowRank {
    down: Linear,
    up: Linear,
}

impl LowRank {
    /// From `a` `(rank, inputs)` and the scaled `b` `(outputs, rank)`, in f32.
    pub(crate) fn new(a: &Tensor, b: &Tensor) -> Result<Self> {
        Ok(Self { down: Linear::of_floats(a, None)?, up: Linear::of_floats(b, None)? })
    }

    /// The change `(rows, outputs)` for `(rows, inputs)`.
    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.up.forward(&self.down.forward(xs)?)
    }
}
