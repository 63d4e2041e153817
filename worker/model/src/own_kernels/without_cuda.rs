//! A program without CUDA has no kernels: none is ever in use, so that none of this is called.
use candle_core::{Result, Tensor, bail};

use super::{DecodeStep, LayerNormParts, RmsNormParts, Unfinished};
use crate::{kv_cache::LayerCache, packed::Then, rotary::RotaryRows};

const REASON: &str = "this program was built without CUDA";

pub(super) fn finish(_: Unfinished<'_>, _: &Then<'_>) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn layer_norm(
    _: Unfinished<'_>,
    _: Option<&Tensor>,
    _: LayerNormParts<'_>,
) -> Result<(Tensor, Tensor)> {
    bail!("{REASON}")
}

pub(super) fn rms_norm(_: Unfinished<'_>, _: Option<&Tensor>, _: RmsNormParts<'_>) -> Result<Tensor> {
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
    _: (LayerNormParts<'_>, LayerNormParts<'_>),
    _: &RotaryRows,
    _: &LayerCache,
) -> Result<Tensor> {
    bail!("{REASON}")
}
