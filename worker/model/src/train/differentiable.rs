//! Norms, GELU and softmax with gradients.
//!
//! On a CPU each is one pass forward and one back over rows, shared among the threads; put together from the backend's
//! operations they would be a dozen passes on one thread, and most of a small model's training. The results do not depend
//! on the number of threads: a training that goes on elsewhere ends the same. On a GPU they are the backend's operations.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use captionfleet_kernels::{self as kernels, Activation, Backend};
use rayon::prelude::*;

use crate::attention::causal_mask;
use crate::cpu_values::contiguous;

/// Rows that a thread takes at once, whose sums are added up together.
const ROWS: usize = 64;
/// Values that a thread takes at once.
const CHUNK: usize = 4096;

/// LayerNorm over the last dimension, with gradients for `xs` and `weight`.
pub(super) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if xs.device().is_cpu() {
        let norm = Norm { bias: Some(bias.to_vec1()?), eps };
        return xs.contiguous()?.apply_op2(weight, norm);
    }
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    scaled(&centred, weight, eps)?.broadcast_add(bias)
}

/// RMSNorm over the last dimension, with gradients for `xs` and `weight`.
pub(super) fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if xs.device().is_cpu() {
        return xs.contiguous()?.apply_op2(weight, Norm { bias: None, eps });
    }
    scaled(xs, weight, eps)
}

fn scaled(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
    xs.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// Either GELU.
pub(super) fn gelu(activation: Activation, xs: &Tensor) -> Result<Tensor> {
    match activation {
        _ if xs.device().is_cpu() => xs.contiguous()?.apply_op1(Gelu(activation)),
        Activation::GeluTanh => xs.gelu(),
        Activation::GeluErf => xs.gelu_erf(),
    }
}

/// Softmax over the last dimension of `scores` `(…, queries, keys)` times `scale`; if `causal`, of the keys up to a query's
/// own.
pub(super) fn softmax(scores: &Tensor, scale: f64, causal: bool) -> Result<Tensor> {
    if scores.device().is_cpu() {
        return scores.contiguous()?.apply_op1(Softmax { scale: scale as f32, causal });
    }
    let scores = (scores * scale)?;
    if causal {
        let mask = causal_mask(0, scores.dim(D::Minus2)?, scores.device())?;
        return candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1);
    }
    candle_nn::ops::softmax(&scores, D::Minus1)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// LayerNorm, or RMSNorm where there is no bias.
struct Norm {
    bias: Option<Vec<f32>>,
    eps: f64,
}

impl Norm {
    /// A row's mean, or 0 for RMSNorm, and one over its deviation.
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let count = row.len() as f64;
        let sum = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / count;
        let mean = match self.bias {
            Some(_) => sum(&mut row.iter().map(|&x| f64::from(x))),
            None => 0.0,
        };
        let variance = sum(&mut row.iter().map(|&x| (f64::from(x) - mean).powi(2)));
        (mean as f32, (1.0 / (variance + self.eps).sqrt()) as f32)
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm-with-gradients"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (xs, weight) =
            (contiguous(xs, layout, self.name())?, contiguous(weight, weight_layout, self.name())?);
        let (mut out, backend) = (vec![0f32; xs.len()], Backend::best());
        xs.par_chunks(weight.len()).zip(out.par_chunks_mut(weight.len())).with_min_len(ROWS).for_each(
            |(row, out)| match &self.bias {
                Some(bias) => kernels::layer_norm(backend, row, weight, bias, self.eps, out),
                None => kernels::rms_norm(backend, row, weight, self.eps, out),
            },
        );
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, gradients, weights) = (values(xs)?, values(gradient)?, values(weight)?);
        let width = weights.len();
        let mut back = vec![0f32; rows.len()];
        let sums: Vec<Vec<f32>> = rows
            .par_chunks(ROWS * width)
            .zip(gradients.par_chunks(ROWS * width))
            .zip(back.par_chunks_mut(ROWS * width))
            .map(|((rows, gradients), back)| {
                let mut sum = vec![0f32; width];
                let parts = rows.chunks(width).zip(gradients.chunks(width)).zip(back.chunks_mut(width));
                for ((row, gradient), back) in parts {
                    self.row_back(row, gradient, &weights, back, &mut sum);
                }
                sum
            })
            .collect();
        let mut sum = vec![0f32; width];
        for part in &sums {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let device = xs.device();
        Ok((Some(Tensor::from_vec(back, xs.shape(), device)?), Some(Tensor::from_vec(sum, width, device)?)))
    }
}

impl Norm {
    /// The way back of one row; adds its part of the weight's gradient to `sum`.
    fn row_back(&self, row: &[f32], gradient: &[f32], weight: &[f32], back: &mut [f32], sum: &mut [f32]) {
        let (mean, scale) = self.moments(row);
        let (mut pushed, mut along) = (0f32, 0f32);
        for at in 0..row.len() {
            let normed = (row[at] - mean) * scale;
            let push = gradient[at] * weight[at];
            sum[at] += gradient[at] * normed;
            pushed += push;
            along += push * normed;
        }
        let count = row.len() as f32;
        let pushed = if self.bias.is_some() { pushed / count } else { 0.0 };
        let along = along / count;
        for at in 0..row.len() {
            let normed = (row[at] - mean) * scale;
            back[at] = scale * (gradient[at] * weight[at] - pushed - along * normed);
        }
    }
}

struct Gelu(Activation);

impl Gelu {
    /// How `y` changes with `x`, where `y` is the GELU of `x`.
    fn slope(&self, x: f32, y: f32) -> f32 {
        // y = x Φ(x): the quotient gives Φ without another tanh or erf.
        let share = if x.abs() < 1e-6 { 0.5 } else { y / x };
        match self.0 {
            Activation::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (1.0 + 3.0 * 0.044_715 * x * x);
                // With t the tanh, Φ = (1 + t) / 2 and 1 - t² = 4 Φ (1 - Φ).
                share + 2.0 * x * share * (1.0 - share) * inner
            }
            Activation::GeluErf => share + x * (-0.5 * x * x).exp() / (2.0 * std::f32::consts::PI).sqrt(),
        }
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu-with-gradients"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = contiguous(xs, layout, self.name())?;
        let (mut out, backend) = (vec![0f32; xs.len()], Backend::best());
        let of = match self.0 {
            Activation::GeluErf => kernels::gelu_erf,
            Activation::GeluTanh => kernels::gelu_tanh,
        };
        out.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).for_each(|(out, xs)| of(backend, xs, out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (inputs, outputs, mut back) = (values(xs)?, values(ys)?, values(gradient)?);
        back.par_chunks_mut(CHUNK).zip(inputs.par_chunks(CHUNK)).zip(outputs.par_chunks(CHUNK)).for_each(
            |((back, xs), ys)| {
                for ((back, &x), &y) in back.iter_mut().zip(xs).zip(ys) {
                    *back *= self.slope(x, y);
                }
            },
        );
        Tensor::from_vec(back, xs.shape(), xs.device()).map(Some)
    }
}

struct Softmax {
    scale: f32,
    causal: bool,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-with-gradients"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = contiguous(scores, layout, self.name())?;
        let dims = layout.shape().dims();
        let (queries, keys) = (dims[dims.len() - 2], dims[dims.len() - 1]);
        let (mut out, backend) = (vec![0f32; scores.len()], Backend::best());
        let rows = out.par_chunks_mut(keys).zip(scores.par_chunks(keys)).enumerate();
        rows.with_min_len(ROWS).for_each(|(at, (out, scores))| {
            let seen = if self.causal { at % queries + 1 } else { keys };
            for (out, score) in out[..seen].iter_mut().zip(scores) {
                *out = score * self.scale;
            }
            kernels::softmax(backend, &mut out[..seen]);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, scores: &Tensor, weights: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (shares, mut back) = (values(weights)?, values(gradient)?);
        let keys = scores.dim(D::Minus1)?;
        let rows = back.par_chunks_mut(keys).zip(shares.par_chunks(keys));
        // What is not seen has a share of 0, and so no gradient.
        rows.with_min_len(ROWS).for_each(|(back, shares)| {
            let mean: f32 = back.iter().zip(shares).map(|(back, share)| back * share).sum();
            for (back, share) in back.iter_mut().zip(shares) {
                *back = self.scale * share * (*back - mean);
            }
        });
        Tensor::from_vec(back, scores.shape(), scores.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Var};

    use super::*;

    fn noise(shape: &[usize]) -> Tensor {
        Tensor::randn(0.3f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    /// Largest distance of gradients for `vars` between two ways to compute the same.
    fn apart(vars: &[Var], one: &Tensor, other: &Tensor) -> f32 {
        let push = noise(one.dims());
        let back = |ys: &Tensor| (ys * &push).unwrap().sum_all().unwrap().backward().unwrap();
        let (one, other) = (back(one), back(other));
        let distance = |var: &Var| {
            let apart = (one.get(var).unwrap() - other.get(var).unwrap()).unwrap().abs().unwrap();
            apart.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        vars.iter().map(distance).fold(0.0, f32::max)
    }

    #[test]
    fn gradients_are_those_of_the_backend() {
        let var = |shape: &[usize]| Var::from_tensor(&noise(shape)).unwrap();
        let (xs, weight, bias) = (var(&[3, 70, 19]), var(&[19]), noise(&[19]));
        let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let theirs = scaled(&centred, &weight, 1e-5).unwrap().broadcast_add(&bias).unwrap();
        let both = [xs.clone(), weight.clone()];
        assert!(apart(&both, &layer_norm(&xs, &weight, &bias, 1e-5).unwrap(), &theirs) < 1e-4);
        let theirs = scaled(&xs, &weight, 1e-6).unwrap();
        assert!(apart(&both, &rms_norm(&xs, &weight, 1e-6).unwrap(), &theirs) < 1e-4);

        let tanh = gelu(Activation::GeluTanh, &xs).unwrap();
        assert!(apart(&both[..1], &tanh, &xs.gelu().unwrap()) < 1e-5);
        let erf = gelu(Activation::GeluErf, &xs).unwrap();
        assert!(apart(&both[..1], &erf, &xs.gelu_erf().unwrap()) < 1e-5);

        let scores = var(&[2, 4, 9, 9]);
        let (scaled, mask) = ((scores.as_tensor() * 0.3).unwrap(), causal_mask(0, 9, &Device::Cpu).unwrap());
        let theirs = candle_nn::ops::softmax(&scaled.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
        let scores = [scores];
        assert!(apart(&scores, &softmax(&scores[0], 0.3, true).unwrap(), &theirs) < 1e-6);
        let theirs = candle_nn::ops::softmax(&scaled, D::Minus1).unwrap();
        assert!(apart(&scores, &softmax(&scores[0], 0.3, false).unwrap(), &theirs) < 1e-6);
    }
}
