//! Scaled dot-product attention: of one sequence, of several at once, and of single queries of several.
use candle_core::{CpuStorage, CustomOp3, DType, Device, Error, Layout, Result, Shape, Tensor, bail};
use captionfleet_kernels::{Attention, Backend, Heads, Past, SingleQueries};

use crate::{
    activation::softmax,
    kv_cache::{LayerCache, Span},
    own_kernels::{OwnKernels, SplitHeads},
};

/// Attends with `queries` `(heads, t, d)`, times `scale`, to `keys` and `values` `(heads, s, d)`; returns
/// `(t, heads * d)` in f32.
///
/// `mask` `(t or 1, s)` is added to the scores. Inputs may be strided views: on a CPU they are
/// read where they lie, on `backend`. One sequence at a time keeps a row's numbers free of its neighbours.
pub(crate) fn attend(
    [queries, keys, values]: [&Tensor; 3],
    scale: f64,
    mask: Option<&Tensor>,
    backend: Backend,
) -> Result<Tensor> {
    let (heads, rows, width) = queries.dims3()?;
    let dtype = keys.dtype();
    // A single query uses each key once: packing them would cost as much as the product.
    if queries.device().is_cpu() && dtype == DType::F32 && rows > 1 {
        let mask = mask.map(|mask| mask.flatten_all()?.to_vec1()).transpose()?;
        let fused = Fused { scale: scale as f32, mask, backend };
        return side_by_side(queries)?.apply_op3_no_bwd(&side_by_side(keys)?, &side_by_side(values)?, &fused);
    }
    let queries = readable(&(queries * scale)?.to_dtype(dtype)?)?;
    let scores = queries.matmul(&readable(&keys.t()?)?)?.to_dtype(DType::F32)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let weights = softmax(&scores)?.to_dtype(dtype)?;
    weights.matmul(&readable(values)?)?.to_dtype(DType::F32)?.transpose(0, 1)?.reshape((rows, heads * width))
}

/// As [`attend`] for several sequences `(B, heads, t, d)`; returns `(B, t, heads * d)`, in f32 or, on a GPU, in the type of the keys.
/// On a CPU one after the other on `backend`; on a GPU, where launches are dear, all in one.
pub(crate) fn attend_each(
    [queries, keys, values]: [&Tensor; 3],
    scale: f64,
    mask: Option<&Tensor>,
    backend: Backend,
    kernels: OwnKernels,
) -> Result<Tensor> {
    if queries.device().is_cpu() {
        let of = |xs: &Tensor, at: usize| xs.narrow(0, at, 1)?.squeeze(0);
        let one =
            |at: usize| attend([&of(queries, at)?, &of(keys, at)?, &of(values, at)?], scale, mask, backend);
        if queries.dim(0)? == 1 {
            return one(0)?.unsqueeze(0);
        }
        return Tensor::stack(&(0..queries.dim(0)?).map(one).collect::<Result<Vec<_>>>()?, 0);
    }
    let queries = (queries * scale)?.to_dtype(keys.dtype())?.contiguous()?;
    let seen =
        attend_together([&queries, &keys.contiguous()?, &values.contiguous()?], keys.dim(2)?, mask, kernels)?;
    seen.transpose(1, 2)?.flatten_from(2)
}

/// Attends within each of several sequences whose heads a kernel has split; returns `(B, tokens, heads * d)` in their type.
pub(crate) fn attend_split(split: &SplitHeads, kernels: OwnKernels) -> Result<Tensor> {
    let seen = attend_together(split.parts.each_ref(), split.tokens, None, kernels)?;
    OwnKernels::join_heads(&seen, split.tokens)
}

/// Attends on a GPU, for several sequences at once, with queries that are scaled already, to the first `valid` keys: all
/// `(B, heads, t, d)`, of one type and contiguous, and so is what is returned.
fn attend_together(
    [queries, keys, values]: [&Tensor; 3],
    valid: usize,
    mask: Option<&Tensor>,
    kernels: OwnKernels,
) -> Result<Tensor> {
    let mut scores = queries.matmul(&keys.t()?)?;
    if let Some(mask) = mask {
        scores = scores.to_dtype(DType::F32)?.broadcast_add(mask)?;
    }
    if !kernels.softmax(&scores, valid)? {
        scores = softmax(&scores.to_dtype(DType::F32)?)?;
    }
    scores.to_dtype(values.dtype())?.matmul(values)
}

/// Appends keys and values `(heads, T, d)` to their slots, and attends with each sequence's queries `(heads, T, d)` to what its
/// slot holds then; returns `(T, heads * d)` in f32. The spans' tokens lie one behind the other.
pub(crate) fn attend_in_slots(
    [queries, keys, values]: [&Tensor; 3],
    spans: &[Span],
    cache: &LayerCache,
) -> Result<Tensor> {
    let scale = (queries.dim(2)? as f64).powf(-0.5);
    let reads_in_place = queries.device().is_cpu() && cache.store().dtype() == DType::F32;
    let is_single = |span: &Span| reads_in_place && span.tokens == 1;
    let mut start = 0;
    let mut sequences = Vec::with_capacity(spans.len());
    for span in spans {
        let row = |xs: &Tensor| xs.narrow(1, start, span.tokens);
        sequences.push((span, row(queries)?, cache.append(span, &row(keys)?, &row(values)?)?));
        start += span.tokens;
    }
    if spans.iter().all(is_single) {
        return attend_singly(queries, spans, cache, scale);
    }
    let one = |(span, queries, (keys, values)): (&Span, Tensor, (Tensor, Tensor))| {
        if is_single(span) {
            return attend_singly(&queries, std::slice::from_ref(span), cache, scale);
        }
        let mask =
            (span.tokens > 1).then(|| causal_mask(span.held, span.tokens, queries.device())).transpose()?;
        attend([&queries, &keys, &values], scale, mask.as_ref(), Backend::best())
    };
    Tensor::cat(&sequences.into_iter().map(one).collect::<Result<Vec<_>>>()?, 0)
}

/// Attends with one query a sequence, `queries` `(heads, rows, d)` times `scale`, to what its slot holds, the query's own token
/// included, on a CPU in f32; returns `(rows, heads * d)`. A row's numbers do not depend on the others.
fn attend_singly(queries: &Tensor, spans: &[Span], cache: &LayerCache, scale: f64) -> Result<Tensor> {
    let seen = spans.iter().map(|span| (span.slot, span.held + 1)).collect();
    let (keys, values) = (cache.store().get(0)?, cache.store().get(1)?);
    side_by_side(queries)?.apply_op3_no_bwd(&keys, &values, &Singly { scale: scale as f32, seen })
}

/// Zero where position `offset + i` may look at position `j` (`j` not later), minus infinity
/// elsewhere: `(tokens, offset + tokens)`.
pub(crate) fn causal_mask(offset: usize, tokens: usize, device: &Device) -> Result<Tensor> {
    let width = offset + tokens;
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|i| (0..width).map(move |j| if j > offset + i { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    Tensor::from_vec(mask, (tokens, width), device)
}

/// The matrix product of a CPU takes any strides; cuBLAS takes fewer.
fn readable(tensor: &Tensor) -> Result<Tensor> {
    if tensor.device().is_cpu() { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// The tensor with the values of a row beside each other.
fn side_by_side(tensor: &Tensor) -> Result<Tensor> {
    if tensor.stride().last() == Some(&1) { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// The whole of it, without tensors in between.
struct Fused {
    scale: f32,
    mask: Option<Vec<f32>>,
    backend: Backend,
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (heads, rows, width) = queries_layout.shape().dims3()?;
        let attention = Attention {
            heads,
            width,
            queries: rows,
            keys: keys_layout.shape().dims3()?.1,
            scale: self.scale,
            mask: self.mask.as_deref(),
        };
        let operands =
            [operand(queries, queries_layout)?, operand(keys, keys_layout)?, operand(values, values_layout)?];
        let mut out = vec![0f32; rows * heads * width];
        attention.run(self.backend, operands, &mut out).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(out), Shape::from((rows, heads * width))))
    }
}

/// Slot and length of every query's sequence.
struct Singly {
    scale: f32,
    seen: Vec<(usize, usize)>,
}

impl CustomOp3 for Singly {
    fn name(&self) -> &'static str {
        "attention of single queries"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (heads, rows, width) = queries_layout.shape().dims3()?;
        if rows != self.seen.len() {
            bail!("{rows} queries, and {} sequences", self.seen.len());
        }
        let past = |&(slot, length): &(usize, usize)| {
            let keys = operand(keys, &keys_layout.narrow(0, slot, 1)?.narrow(2, 0, length)?)?;
            let values = operand(values, &values_layout.narrow(0, slot, 1)?.narrow(2, 0, length)?)?;
            Ok(Past { keys, values, length })
        };
        let pasts = self.seen.iter().map(past).collect::<Result<Vec<_>>>()?;
        let attention = SingleQueries { heads, width, scale: self.scale, pasts: &pasts };
        let mut out = vec![0f32; rows * heads * width];
        attention.run(Backend::best(), operand(queries, queries_layout)?, &mut out).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(out), Shape::from((rows, heads * width))))
    }
}

/// The last three dimensions, from the layout's first value on.
fn operand<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Heads<'a>> {
    match (storage, layout.stride()) {
        (CpuStorage::F32(values), &[.., head_stride, row_stride, 1]) => {
            Ok(Heads { values: &values[layout.start_offset()..], head_stride, row_stride })
        }
        _ => bail!("attention takes f32 with the values of a row side by side"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_ways_agree() {
        let of = |rows: usize| Tensor::randn(0f32, 1.0, (rows, 3, 20), &Device::Cpu).unwrap();
        let (queries, keys, values) = (of(9), of(40), of(40));
        let by_head = |xs: &Tensor| xs.transpose(0, 1).unwrap();
        let mask = causal_mask(31, 9, &Device::Cpu).unwrap();
        for mask in [None, Some(mask)] {
            let all = attend(
                [&by_head(&queries), &by_head(&keys), &by_head(&values)],
                0.3,
                mask.as_ref(),
                Backend::best(),
            )
            .unwrap();
            for row in 0..9 {
                let query = by_head(&queries.narrow(0, row, 1).unwrap());
                let mask = mask.as_ref().map(|mask| mask.narrow(0, row, 1).unwrap());
                let one =
                    attend([&query, &by_head(&keys), &by_head(&values)], 0.3, mask.as_ref(), Backend::best())
                        .unwrap();
                let distance = (all.narrow(0, row, 1).unwrap() - one).unwrap().abs().unwrap();
                let distance = distance.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(distance < 1e-5, "row {row}: {distance}");
            }
        }
    }
}
