//! GELU and softmax of tensors. Where nothing comes between a product and its GELU, the product computes it
//! ([`Linear::activated`](crate::Linear)).
//!
//! The backend computes them value by value, the GELU on one thread of a CPU; here they are vectors' work
//! ([`captionfleet_kernels`]), shared among the threads.
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use captionfleet_kernels::{Activation, Backend, gelu_erf, gelu_tanh, softmax as softmax_of};
use rayon::prelude::*;

use crate::cpu_values::contiguous;

/// Elements a thread takes at once.
const CHUNK: usize = 4096;

/// Either GELU: the tanh approximation that Phi calls `gelu_new`, or BERT's.
pub(crate) fn gelu(activation: Activation, xs: &Tensor) -> Result<Tensor> {
    match activation {
        _ if xs.device().is_cpu() => xs.contiguous()?.apply_op1_no_bwd(&Gelu(activation)),
        Activation::GeluTanh => xs.gelu(),
        Activation::GeluErf => xs.gelu_erf(),
    }
}

/// Softmax over the last dimension.
pub(crate) fn softmax(xs: &Tensor) -> Result<Tensor> {
    if !xs.device().is_cpu() {
        return candle_nn::ops::softmax_last_dim(xs);
    }
    xs.contiguous()?.apply_op1_no_bwd(&Softmax)
}

struct Gelu(Activation);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = contiguous(storage, layout, self.name())?;
        let (mut out, backend) = (vec![0f32; values.len()], Backend::best());
        let of = match self.0 {
            Activation::GeluErf => gelu_erf,
            Activation::GeluTanh => gelu_tanh,
        };
        out.par_chunks_mut(CHUNK)
            .zip(values.par_chunks(CHUNK))
            .for_each(|(out, values)| of(backend, values, out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mut out, backend) = (contiguous(storage, layout, self.name())?.to_vec(), Backend::best());
        let width = layout.shape().dims().last().copied().unwrap_or(1).max(1);
        out.par_chunks_mut(width)
            .with_min_len(CHUNK.div_ceil(width))
            .for_each(|row| softmax_of(backend, row));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    #[test]
    fn softmax_agrees_with_the_backend() {
        let xs = Tensor::randn(0f32, 4.0, (3, 50, 257), &Device::Cpu).unwrap();
        let theirs = candle_nn::ops::softmax_last_dim(&xs).unwrap();
        let distance = (softmax(&xs).unwrap() - theirs).unwrap().abs().unwrap().flatten_all().unwrap();
        assert!(distance.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn gelu_agrees_with_the_backend() {
        let values: Vec<f32> = (0..10_000).map(|i| (i as f32 - 5000.0) / 700.0).collect();
        let xs = Tensor::from_vec(values, (100, 100), &Device::Cpu).unwrap();
        for (activation, theirs) in
            [(Activation::GeluTanh, xs.gelu().unwrap()), (Activation::GeluErf, xs.gelu_erf().unwrap())]
        {
            let distance = (gelu(activation, &xs).unwrap() - theirs).unwrap().abs().unwrap();
            let distance = distance.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(distance < 2e-6, "{activation:?}: {distance}");
        }
    }
}
