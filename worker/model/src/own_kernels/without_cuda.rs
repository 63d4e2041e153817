//! A program without CUDA has no kernels: none is ever in use, so that none of this is called.
use candle_core::{Result, Tensor, bail};

use super::{DecodeStep, Unfinished};
use crate::{
    kv_cache::LayerCache,
    norm::{LayerNorm, RmsNorm},
    packed::Then,
    rotary::RotaryRows,
};

const REASON: &str = "this program was built without CUDA";

pub(super) fn finish(_: Unfinished<'_>, _: &Then<'_>) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn layer_norm(_: Unfinished<'_>, _: Option<&Tensor>, _: &LayerNorm) -> Result<(Tensor, Tensor)> {
    bail!("{REASON}")
}

pub(super) fn rms_norm(_: Unfinished<'_>, _: Option<&Tensor>, _: &RmsNorm) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn norms_serve(_: usize) -> bool {
    false
}

pub(super) fn attention_serves(_: usize, _: usize) -> bool {
    false
}

pub(super) fn decode(
    _: &DecodeStep,
    _: &Tensor,
    _: (&LayerNorm, &LayerNorm),
    _: &RotaryRows,
    _: &LayerCache,
) -> Result<Tensor> {
    bail!("{REASON}")
}
