//! The two GELUs.
use candle_core::{Result, Tensor};

/// The exact GELU, through the error function.
pub(crate) fn gelu_erf(xs: &Tensor) -> Result<Tensor> {
    xs.gelu_erf()
}

/// The tanh approximation that Phi calls `gelu_new`.
pub(crate) fn gelu_tanh(xs: &Tensor) -> Result<Tensor> {
    xs.gelu()
}
