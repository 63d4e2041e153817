//! The two norms over the last dimension, computed in f32.
//!
//! On a CPU they are those of [`captionfleet_kernels`], on a GPU our own where they are in use. The backend's take one pass over a
//! row, `mean(x²) - mean(x)²`, which loses most digits where a row's mean is far from zero, as in the
//! residual stream of a large vision tower.
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Module, Result, Shape, Tensor};
use captionfleet_kernels::{Backend, layer_norm, rms_norm};
use rayon::prelude::*;

use crate::{
    WeightError, Weights,
    cpu_values::contiguous,
    own_kernels::{LayerNormParts, OwnKernels, RmsNormParts},
};

const NAME: &str = "a norm";

/// LayerNorm with weight and bias.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    kernels: OwnKernels,
    output: DType,
}

impl LayerNorm {
    pub(crate) fn load(weights: &Weights, width: usize, eps: f64) -> std::result::Result<Self, WeightError> {
        let kernels = weights.kernels();
        let of = Self::of(weights.tensor(width, "weight")?, weights.tensor(width, "bias")?, eps);
        Ok(Self { kernels, ..of })
    }

    /// From its parts, with the backend's kernels.
    pub(crate) fn of(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps, kernels: OwnKernels::NONE, output: DType::F32 }
    }

    /// The same norm where only products read it, whose inputs are multiplied in these types: a kernel of ours writes it so if
    /// there is but one.
    pub(crate) fn before(self, products: &[DType]) -> Self {
        let only = products.first().filter(|first| products.iter().all(|other| other == *first));
        Self { output: only.copied().unwrap_or(DType::F32), ..self }
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.weight.elem_count()
    }

    /// In which a kernel of ours writes it.
    pub(crate) fn output(&self) -> DType {
        self.output
    }

    /// The same norm with other weights or biases.
    pub(crate) fn changed(&self, weight: Option<Tensor>, bias: Option<Tensor>) -> Self {
        Self {
            weight: weight.unwrap_or_else(|| self.weight.clone()),
            bias: bias.unwrap_or_else(|| self.bias.clone()),
            eps: self.eps,
            kernels: self.kernels,
            output: self.output,
        }
    }

    /// Weight, bias, and what keeps the divisor from zero.
    pub(crate) fn parts(&self) -> LayerNormParts<'_> {
        (&self.weight, &self.bias, self.eps)
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        if xs.device().is_cpu() {
            return xs.apply_op3_no_bwd(&self.weight, &self.bias, &Centred { eps: self.eps });
        }
        match self.kernels.layer_norm(&xs, self.parts(), self.output)? {
            Some(normed) => Ok(normed),
            None => candle_nn::ops::layer_norm(&xs, &self.weight, &self.bias, self.eps as f32),
        }
    }
}

/// RMSNorm, weight only.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
    kernels: OwnKernels,
}

impl RmsNorm {
    pub(crate) fn load(weights: &Weights, width: usize, eps: f64) -> std::result::Result<Self, WeightError> {
        let kernels = weights.kernels();
        Ok(Self { kernels, ..Self::of(weights.tensor(width, "weight")?, eps) })
    }

    /// From its parts, with the backend's kernels.
    pub(crate) fn of(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps, kernels: OwnKernels::NONE }
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.weight.elem_count()
    }

    /// The same norm with other weights.
    pub(crate) fn changed(&self, weight: Tensor) -> Self {
        Self { weight, eps: self.eps, kernels: self.kernels }
    }

    /// Weight, and what keeps the divisor from zero.
    pub(crate) fn parts(&self) -> RmsNormParts<'_> {
        (&self.weight, self.eps)
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        if xs.device().is_cpu() {
            return xs.apply_op2_no_bwd(&self.weight, &RootMeanSquare { eps: self.eps });
        }
        match self.kernels.rms_norm(&xs, self.parts())? {
            Some(normed) => Ok(normed),
            None => candle_nn::ops::rms_norm(&xs, &self.weight, self.eps as f32),
        }
    }
}

struct Centred {
    eps: f64,
}

impl CustomOp3 for Centred {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = contiguous(weight, weight_layout, NAME)?;
        let bias = contiguous(bias, bias_layout, NAME)?;
        let backend = Backend::best();
        by_rows(xs, xs_layout, |row, out| layer_norm(backend, row, weight, bias, self.eps, out))
    }
}

struct RootMeanSquare {
    eps: f64,
}

impl CustomOp2 for RootMeanSquare {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = contiguous(weight, weight_layout, NAME)?;
        let backend = Backend::best();
        by_rows(xs, xs_layout, |row, out| rms_norm(backend, row, weight, self.eps, out))
    }
}

fn by_rows(
    xs: &CpuStorage,
    layout: &Layout,
    normalise: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<(CpuStorage, Shape)> {
    let xs = contiguous(xs, layout, NAME)?;
    let width = layout.shape().dims().last().copied().unwrap_or(1);
    let mut out = vec![0f32; xs.len()];
    xs.par_chunks(width)
        .zip(out.par_chunks_mut(width))
        .with_min_len(16)
        .for_each(|(row, out)| normalise(row, out));
    Ok((CpuStorage::F32(out), layout.shape().clone()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;

    fn weights(width: usize) -> Weights {
        let of = |value: f64| (Tensor::ones(width, DType::F32, &Device::Cpu).unwrap() * value).unwrap();
        let tensors = HashMap::from([("weight".to_owned(), of(2.0)), ("bias".to_owned(), of(0.5))]);
        Weights::from_tensors(tensors, &Device::Cpu)
    }

    #[test]
    fn layer_norm_keeps_its_digits_far_from_zero() {
        let row: Vec<f32> = (0..19).map(|i| 4096.0 + (i % 3) as f32).collect();
        let norm = LayerNorm::load(&weights(19), 19, 1e-6).unwrap();
        let out = norm.forward(&Tensor::new(vec![row.clone(), row.clone()], &Device::Cpu).unwrap()).unwrap();
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / 19.0;
        let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 19.0;
        for out in out.to_vec2::<f32>().unwrap() {
            for (out, &x) in out.iter().zip(&row) {
                let expected = (f64::from(x) - mean) / (variance + 1e-6).sqrt() * 2.0 + 0.5;
                assert!((f64::from(*out) - expected).abs() < 1e-3, "{out} {expected}");
            }
        }
    }

    #[test]
    fn rms_norm_divides_by_the_root_mean_square() {
        let norm = RmsNorm::load(&weights(4), 4, 0.0).unwrap();
        let out = norm.forward(&Tensor::new(&[[1f32, -1.0, 7.0, 7.0]], &Device::Cpu).unwrap()).unwrap();
        let expected = [0.4, -0.4, 2.8, 2.8];
        for (out, expected) in out.to_vec2::<f32>().unwrap()[0].iter().zip(expected) {
            assert!((out - expected).abs() < 1e-6);
        }
    }
}
