//! Which rows of a step use which adapter.

use candle_core::{Module, Result, Tensor};

use super::{Adapter, LowRank};

/// Consecutive rows of one step, in runs of the same adapter; without any adapter there are none, and every step is as
/// if adapters did not exist.
#[derive(Debug, Default)]
pub(crate) struct Shares<'a>(Vec<Share<'a>>);

#[derive(Debug)]
struct Share<'a> {
    start: usize,
    rows: usize,
    adapter: Option<&'a Adapter>,
}

impl<'a> Shares<'a> {
    /// From each sequence's rows and adapter, in the order of the rows.
    pub(crate) fn of(sequences: impl IntoIterator<Item = (usize, Option<&'a Adapter>)>) -> Self {
        let mut shares: Vec<Share<'a>> = Vec::new();
        let mut start = 0;
        for (rows, adapter) in sequences {
            match shares.last_mut() {
                Some(last) if last.adapter.map(Adapter::digest) == adapter.map(Adapter::digest) => {
                    last.rows += rows;
                }
                _ => shares.push(Share { start, rows, adapter }),
            }
            start += rows;
        }
        if shares.iter().all(|share| share.adapter.is_none()) { Self::default() } else { Self(shares) }
    }

    /// Of `rows` rows from `start` on, and behind them `filling` that use no adapter.
    pub(crate) fn part(&self, start: usize, rows: usize, filling: usize) -> Self {
        let within = |share: &Share<'a>| {
            let (from, to) = (share.start.max(start), (share.start + share.rows).min(start + rows));
            (to.saturating_sub(from), share.adapter)
        };
        let shares = self.0.iter().map(within).filter(|(rows, _)| *rows > 0);
        Self::of(shares.chain((filling > 0).then_some((filling, None))))
    }

    /// Whether the adapter of any row is such a one.
    pub(crate) fn any(&self, is: impl Fn(&'a Adapter) -> bool) -> bool {
        self.0.iter().filter_map(|share| share.adapter).any(is)
    }

    /// `ys`, which a linear layer made of `xs`, with each adapter's change added to its own rows.
    pub(crate) fn add(
        &self,
        ys: Tensor,
        xs: &Tensor,
        change: impl Fn(&'a Adapter) -> Option<&'a LowRank>,
    ) -> Result<Tensor> {
        let change_of = |share: &Share<'a>| share.adapter.and_then(&change);
        if self.0.iter().all(|share| change_of(share).is_none()) {
            return Ok(ys);
        }
        self.by_share(|share| {
            let own = share.of(&ys)?;
            match change_of(share) {
                Some(change) => own + change.forward(&share.of(xs)?)?,
                None => Ok(own),
            }
        })
    }

    /// `xs` through `base`, or through each adapter's own module of that kind.
    pub(crate) fn through<M: Module + 'a>(
        &self,
        base: &M,
        xs: &Tensor,
        own: impl Fn(&'a Adapter) -> Option<&'a M>,
    ) -> Result<Tensor> {
        let module_of = |share: &Share<'a>| share.adapter.and_then(&own);
        if self.0.iter().all(|share| module_of(share).is_none()) {
            return base.forward(xs);
        }
        self.by_share(|share| {
            let rows = share.of(xs)?;
            module_of(share).map_or_else(|| base.forward(&rows), |own| own.forward(&rows))
        })
    }

    fn by_share(&self, each: impl Fn(&Share<'a>) -> Result<Tensor>) -> Result<Tensor> {
        match self.0.as_slice() {
            [only] => each(only),
            shares => Tensor::cat(&shares.iter().map(each).collect::<Result<Vec<_>>>()?, 0),
        }
    }
}

impl Share<'_> {
    fn of(&self, xs: &Tensor) -> Result<Tensor> {
        xs.narrow(0, self.start, self.rows)
    }
}
