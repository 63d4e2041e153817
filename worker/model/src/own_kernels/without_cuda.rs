//! A program without CUDA has no kernels: none is ever in use, so that none of this is called.
use candle_core::{DType, Device, Result, Tensor, bail};

use super::{LayerNormParts, RmsNormParts, SlotStep, SplitHeads, Unfinished};
use crate::{kv_cache::LayerCache, packed::Then, rotary::RotaryRows};

/// Decode steps that a driver remembers: none.
#[derive(Debug, Default)]
pub(crate) struct Recordings {}

impl Recordings {
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as with CUDA")]
    pub(crate) fn run(
        &mut self,
        _: &Device,
        _: &[[u32; 3]],
        _: [u32; 3],
        _: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

const REASON: &str = "this program was built without CUDA";

pub(super) fn finish(_: Unfinished<'_>, _: &Then<'_>) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn layer_norm(
    _: Unfinished<'_>,
    _: Option<&Tensor>,
    _: LayerNormParts<'_>,
    _: DType,
) -> Result<(Tensor, Tensor)> {
    bail!("{REASON}")
}

pub(super) fn rms_norm(_: Unfinished<'_>, _: Option<&Tensor>, _: RmsNormParts<'_>) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn norms_serve(_: usize) -> bool {
    false
}

pub(super) fn split_heads(_: Unfinished<'_>, _: (usize, usize), _: f64) -> Result<SplitHeads> {
    bail!("{REASON}")
}

pub(super) fn join_heads(_: &Tensor, _: usize) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn softmax(_: &Tensor, _: usize) -> Result<()> {
    bail!("{REASON}")
}

pub(super) fn likeliest(_: &Tensor, _: usize) -> Result<Tensor> {
    bail!("{REASON}")
}

pub(super) fn attention_serves(_: usize, _: usize) -> bool {
    false
}

pub(super) fn in_slots(
    _: &SlotStep,
    _: &Tensor,
    _: (LayerNormParts<'_>, LayerNormParts<'_>),
    _: &RotaryRows,
    _: &LayerCache,
) -> Result<Tensor> {
    bail!("{REASON}")
}
