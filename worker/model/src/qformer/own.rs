//! Adapters beside the linear layers of the Q-Former.

use candle_core::{Module, Result, Tensor};
use captionfleet_kernels::Activation;

use crate::activation::gelu;
use crate::adapter::{LowRank, QFormerLayerAdapter, Shares};
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// What the pictures' adapters have of their own for one layer.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) layer: usize,
    /// None where no adapter changes the layer: then products are followed by what follows them without a tensor between.
    pub(super) shares: Option<&'a Shares<'a>>,
}

impl<'a> Own<'a> {
    pub(super) const NONE: Own<'static> = Own { layer: 0, shares: None };

    /// `xs` through a linear layer of the base, with the adapters' changes.
    pub(super) fn changed(
        self,
        base: &Linear,
        xs: &Tensor,
        change: impl Fn(&'a QFormerLayerAdapter) -> Option<&'a LowRank>,
    ) -> Result<Tensor> {
        let ys = base.forward(xs)?;
        match self.shares {
            None => Ok(ys),
            Some(shares) => shares.add(ys, xs, |adapter| change(adapter.qformer(self.layer)?)),
        }
    }

    /// The same, added to a residual stream, and normed.
    pub(super) fn added_and_normed(
        self,
        base: &Linear,
        norm: &LayerNorm,
        residual: &Tensor,
        xs: &Tensor,
        change: impl Fn(&'a QFormerLayerAdapter) -> Option<&'a LowRank>,
    ) -> Result<Tensor> {
        match self.shares {
            None => Ok(base.added_and_normed(residual, xs, norm)?.1),
            Some(_) => norm.forward(&(residual + self.changed(base, xs, change)?)?),
        }
    }

    /// The same, through BERT's GELU.
    pub(super) fn activated(
        self,
        base: &Linear,
        xs: &Tensor,
        change: impl Fn(&'a QFormerLayerAdapter) -> Option<&'a LowRank>,
    ) -> Result<Tensor> {
        match self.shares {
            None => base.activated(xs, Activation::GeluErf),
            Some(_) => gelu(Activation::GeluErf, &self.changed(base, xs, change)?),
        }
    }
}
