//! Scaled dot-product attention of one sequence.
use candle_core::{DType, Device, Result, Tensor};

use crate::activation::softmax;

/// Attends with `queries` `(heads, t, d)`, already scaled, to `keys` and `values`
/// `(heads, s, d)`; returns `(t, heads * d)` in f32.
///
/// `mask` `(t or 1, s)` is added to the scores. Inputs may be strided views: on a CPU they are
/// read where they lie. One sequence at a time keeps a row's numbers free of its neighbours.
pub(crate) fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (heads, rows, width) = queries.dims3()?;
    let dtype = keys.dtype();
    let queries = readable(&queries.to_dtype(dtype)?)?;
    let scores = queries.matmul(&readable(&keys.t()?)?)?.to_dtype(DType::F32)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let weights = softmax(&scores)?.to_dtype(dtype)?;
    weights.matmul(&readable(values)?)?.to_dtype(DType::F32)?.transpose(0, 1)?.reshape((rows, heads * width))
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
