//! Our own kernels on a GPU (`captionfleet-cuda-kernels`), where they take the place of several of the backend's.
//!
//! Each function here says `None` where the kernel is not in use, and whoever calls it goes on with the backend's
//! operations: on a CPU, in a program without CUDA, where an operator wants it so, and where a kernel did not pass its
//! check ([`OwnKernels::checked`]).
mod guard;

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda.rs"]
mod cuda;

use candle_core::{Device, Result, Tensor};

use crate::{
    kv_cache::{LayerCache, Span},
    packed::Then,
    rotary::RotaryRows,
};

/// Which of our own kernels a network uses on its GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnKernels {
    products: bool,
    norms: bool,
    attention: bool,
}

/// Weight and bias of a LayerNorm `(width)`, and what keeps its divisor from zero.
pub(crate) type LayerNormParts<'a> = (&'a Tensor, &'a Tensor, f64);
/// Weight of an RMSNorm `(width)`, and what keeps its divisor from zero.
pub(crate) type RmsNormParts<'a> = (&'a Tensor, f64);

/// A product on its way: what a layer adds to it comes with what follows.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only kernels read it"))]
#[derive(Clone, Copy)]
pub(crate) struct Unfinished<'a> {
    /// `(rows, outputs)`, in the type that it was multiplied in.
    pub(crate) product: &'a Tensor,
    /// `(outputs)` in f32.
    pub(crate) bias: Option<&'a Tensor>,
}

/// One new token in each of many slots, as a kernel is told of it.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only kernels read it"))]
#[derive(Debug)]
pub(crate) struct DecodeStep {
    /// The rows' slots `(rows)`.
    slots: Tensor,
    /// Tokens that they hold already `(rows)`.
    held: Tensor,
    /// Tokens of the longest, the new one included.
    longest: usize,
}

impl OwnKernels {
    /// None of them: the backend's operations alone.
    pub const NONE: Self = Self { products: false, norms: false, attention: false };

    /// Their names, for people.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.products, "products"), (self.norms, "norms"), (self.attention, "attention")];
        all.into_iter().filter_map(|(is_used, name)| is_used.then_some(name)).collect()
    }

    /// Whether rows of `width` values are normed by a kernel.
    pub(crate) fn norms(self, width: usize) -> bool {
        self.norms && cuda::norms_serve(width)
    }

    /// The bias of a product and what follows it; an activation comes in the product's type, anything else in f32.
    pub(crate) fn finish(self, of: Unfinished<'_>, then: &Then<'_>) -> Result<Option<Tensor>> {
        self.products.then(|| cuda::finish(of, then)).transpose()
    }

    /// LayerNorm of rows.
    pub(crate) fn layer_norm(self, xs: &Tensor, norm: LayerNormParts<'_>) -> Result<Option<Tensor>> {
        let own = || Ok(cuda::layer_norm(Unfinished { product: xs, bias: None }, None, norm)?.1);
        self.norms(norm.0.elem_count()).then(own).transpose()
    }

    /// RMSNorm of rows.
    pub(crate) fn rms_norm(self, xs: &Tensor, norm: RmsNormParts<'_>) -> Result<Option<Tensor>> {
        let own = || cuda::rms_norm(Unfinished { product: xs, bias: None }, None, norm);
        self.norms(norm.0.elem_count()).then(own).transpose()
    }

    /// A product added to a residual stream `(rows, outputs)`, and the LayerNorm of the sum. Only where
    /// [`OwnKernels::norms`].
    pub(crate) fn sum_and_norm(
        of: Unfinished<'_>,
        residual: &Tensor,
        norm: LayerNormParts<'_>,
    ) -> Result<(Tensor, Tensor)> {
        cuda::layer_norm(of, Some(residual), norm)
    }

    /// The RMSNorm of a product added to a residual stream `(rows, outputs)`. Only where [`OwnKernels::norms`].
    pub(crate) fn norm_and_sum(
        of: Unfinished<'_>,
        residual: &Tensor,
        norm: RmsNormParts<'_>,
    ) -> Result<Tensor> {
        cuda::rms_norm(of, Some(residual), norm)
    }

    /// A step, if it is one of decoding: one token for each of its sequences, with heads of `width` values.
    pub(crate) fn decode_step(
        self,
        spans: &[Span],
        width: usize,
        device: &Device,
    ) -> Result<Option<DecodeStep>> {
        let longest = spans.iter().map(|span| span.held + 1).max().unwrap_or(0);
        let is_decoding = spans.iter().all(|span| span.tokens == 1);
        let is_served = self.attention && is_decoding && cuda::attention_serves(width, longest);
        is_served.then(|| DecodeStep::of(spans, longest, device)).transpose()
    }
}

impl DecodeStep {
    fn of(spans: &[Span], longest: usize, device: &Device) -> Result<Self> {
        let rows = |of: fn(&Span) -> usize| {
            let rows: Vec<u32> = spans.iter().map(|span| of(span) as u32).collect();
            Tensor::new(rows, device)
        };
        Ok(Self { slots: rows(|span| span.slot)?, held: rows(|span| span.held)?, longest })
    }

    /// From the fused projections `(rows, heads, 3, width)` to what is seen `(rows, heads * width)` in f32: norms of queries
    /// and keys, rotation, the cache, and attention.
    pub(crate) fn attend(
        &self,
        fused: &Tensor,
        norms: (LayerNormParts<'_>, LayerNormParts<'_>),
        rotary: &RotaryRows,
        cache: &LayerCache,
    ) -> Result<Tensor> {
        cuda::decode(self, fused, norms, rotary, cache)
    }
}
