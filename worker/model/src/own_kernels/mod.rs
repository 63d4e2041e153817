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

use candle_core::{DType, Device, Result, Tensor};

pub(crate) use self::cuda::Recordings;

use crate::{
    kv_cache::{LayerCache, Span},
    packed::Then,
    rotary::RotaryRows,
};

/// Which of our own kernels a network uses on its GPU.
#[allow(clippy::struct_excessive_bools, reason = "each kernel is in use or not, whatever the others are")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnKernels {
    products: bool,
    norms: bool,
    heads: bool,
    attention: bool,
    choice: bool,
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

/// Queries, keys and values of several sequences, each `(B, heads, padded, width)`: behind the tokens there are zeros.
#[derive(Debug)]
pub(crate) struct SplitHeads {
    pub(crate) parts: [Tensor; 3],
    /// Of each sequence, without the zeros.
    pub(crate) tokens: usize,
}

/// New tokens in slots, as a kernel is told of them: a row for each.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only kernels read it"))]
#[derive(Debug)]
pub(crate) struct SlotStep {
    /// The rows' slots `(rows)`.
    slots: Tensor,
    /// Their places in them `(rows)`.
    places: Tensor,
    /// Tokens of the longest slot, the new ones included.
    longest: usize,
}

/// The longest prompt that a kernel reads: it looks at all earlier tokens anew for each one, and products share that work.
const LONGEST_PROMPT: usize = 256;

impl OwnKernels {
    /// None of them: the backend's operations alone.
    pub const NONE: Self =
        Self { products: false, norms: false, heads: false, attention: false, choice: false };

    /// Their names, for people.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.products, "products"),
            (self.norms, "norms"),
            (self.heads, "heads"),
            (self.attention, "attention"),
            (self.choice, "choice"),
        ];
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

    /// LayerNorm of rows, in the type `output`.
    pub(crate) fn layer_norm(
        self,
        xs: &Tensor,
        norm: LayerNormParts<'_>,
        output: DType,
    ) -> Result<Option<Tensor>> {
        let own = || Ok(cuda::layer_norm(Unfinished { product: xs, bias: None }, None, norm, output)?.1);
        self.norms(norm.0.elem_count()).then(own).transpose()
    }

    /// RMSNorm of rows.
    pub(crate) fn rms_norm(self, xs: &Tensor, norm: RmsNormParts<'_>) -> Result<Option<Tensor>> {
        let own = || cuda::rms_norm(Unfinished { product: xs, bias: None }, None, norm);
        self.norms(norm.0.elem_count()).then(own).transpose()
    }

    /// A product added to a residual stream `(rows, outputs)`, and the LayerNorm of the sum in the type `output`. Only where
    /// [`OwnKernels::norms`].
    pub(crate) fn sum_and_norm(
        of: Unfinished<'_>,
        residual: &Tensor,
        norm: LayerNormParts<'_>,
        output: DType,
    ) -> Result<(Tensor, Tensor)> {
        cuda::layer_norm(of, Some(residual), norm, output)
    }

    /// The RMSNorm of a product added to a residual stream `(rows, outputs)`. Only where [`OwnKernels::norms`].
    pub(crate) fn norm_and_sum(
        of: Unfinished<'_>,
        residual: &Tensor,
        norm: RmsNormParts<'_>,
    ) -> Result<Tensor> {
        cuda::rms_norm(of, Some(residual), norm)
    }

    /// Whether fused projections are split into heads by a kernel.
    pub(crate) fn splits_heads(self) -> bool {
        self.heads
    }

    /// Fused projections `(B * tokens, 3 * heads * width)` with their bias, by heads; queries times `scale`.
    pub(crate) fn split_heads(
        self,
        of: Unfinished<'_>,
        (tokens, heads): (usize, usize),
        scale: f64,
    ) -> Result<Option<SplitHeads>> {
        self.heads.then(|| cuda::split_heads(of, (tokens, heads), scale)).transpose()
    }

    /// What the heads saw, `(B, heads, padded, width)`, as `(B, tokens, heads * width)`. Only where [`OwnKernels::splits_heads`].
    pub(crate) fn join_heads(seen: &Tensor, tokens: usize) -> Result<Tensor> {
        cuda::join_heads(seen, tokens)
    }

    /// Softmax of the first `valid` values of rows `(…, width)` where they lie, zeros behind them; false where no kernel does it and
    /// nothing was done.
    pub(crate) fn softmax(self, scores: &Tensor, valid: usize) -> Result<bool> {
        if self.heads {
            cuda::softmax(scores, valid)?;
        }
        Ok(self.heads)
    }

    /// Of the first `valid` logits of each row `(rows, vocab)` in f32: the first of the largest, and the natural logarithm of its
    /// share among them, `(rows, 2)` in f32. The logarithm is not finite where the logits are no numbers.
    pub(crate) fn likeliest(self, logits: &Tensor, valid: usize) -> Result<Option<Tensor>> {
        self.choice.then(|| cuda::likeliest(logits, valid)).transpose()
    }

    /// Whether decode steps of a cache with slots of `longest` tokens, with heads of `width` values, do nothing but queue kernels, so that
    /// they can be recorded.
    pub(crate) fn can_be_recorded(self, width: usize, longest: usize) -> bool {
        self.products && self.norms && self.attention && cuda::attention_serves(width, longest)
    }

    /// A step of `rows` rows for a kernel, with heads of `width` values; rows behind the spans' belong to nobody.
    pub(crate) fn slot_step(
        self,
        spans: &[Span],
        rows: usize,
        width: usize,
        device: &Device,
    ) -> Result<Option<SlotStep>> {
        let longest = spans.iter().map(|span| span.held + span.tokens).max().unwrap_or(0);
        let are_short = spans.iter().all(|span| span.tokens <= LONGEST_PROMPT);
        let is_served = self.attention && are_short && cuda::attention_serves(width, longest);
        is_served.then(|| SlotStep::of(spans, rows, longest, device)).transpose()
    }
}

impl SlotStep {
    /// From slots and places `(rows)` as u32 that lie on the device already, of a cache with slots of `longest` tokens.
    pub(crate) fn on_device(slots: Tensor, places: Tensor, longest: usize) -> Self {
        Self { slots, places, longest }
    }

    fn of(spans: &[Span], rows: usize, longest: usize, device: &Device) -> Result<Self> {
        let slots = spans.iter().flat_map(|span| std::iter::repeat_n(span.slot as u32, span.tokens));
        let places = spans.iter().flat_map(Span::positions);
        // The kernels leave rows alone whose slot no cache has.
        let filled = |mut values: Vec<u32>| {
            values.resize(rows, u32::MAX);
            Tensor::new(values, device)
        };
        Ok(Self { slots: filled(slots.collect())?, places: filled(places.collect())?, longest })
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
        cuda::in_slots(self, fused, norms, rotary, cache)
    }
}
