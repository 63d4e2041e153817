//! The two GELUs.
//!
//! The backend computes them on one thread of a CPU, which costs a wide MLP a tenth of its time;
//! here rows are shared among the threads.
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail, cpu::erf::erf_f32};
use rayon::prelude::*;

/// Elements a thread takes at once.
const CHUNK: usize = 4096;

/// The exact GELU, through the error function.
pub(crate) fn gelu_erf(xs: &Tensor) -> Result<Tensor> {
    if !xs.device().is_cpu() {
        return xs.gelu_erf();
    }
    let exact = |x: f32| 0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2));
    xs.contiguous()?.apply_op1_no_bwd(&Pointwise { name: "gelu-erf", function: exact })
}

/// The tanh approximation that Phi calls `gelu_new`.
pub(crate) fn gelu_tanh(xs: &Tensor) -> Result<Tensor> {
    if !xs.device().is_cpu() {
        return xs.gelu();
    }
    let scale = (2.0 / std::f32::consts::PI).sqrt();
    let approximate = move |x: f32| 0.5 * x * (1.0 + (scale * (x + 0.044_715 * x * x * x)).tanh());
    xs.contiguous()?.apply_op1_no_bwd(&Pointwise { name: "gelu-tanh", function: approximate })
}

struct Pointwise<F> {
    name: &'static str,
    function: F,
}

impl<F: Fn(f32) -> f32 + Send + Sync> CustomOp1 for Pointwise<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("{} takes contiguous f32", self.name)
        };
        let mut out = vec![0f32; end - start];
        out.par_chunks_mut(CHUNK).zip(values[start..end].par_chunks(CHUNK)).for_each(|(out, values)| {
            for (out, &value) in out.iter_mut().zip(values) {
                *out = (self.function)(value);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    #[test]
    fn both_agree_with_the_backend() {
        let values: Vec<f32> = (0..10_000).map(|i| (i as f32 - 5000.0) / 700.0).collect();
        let xs = Tensor::from_vec(values, (100, 100), &Device::Cpu).unwrap();
        for (ours, theirs) in
            [(gelu_erf(&xs).unwrap(), xs.gelu_erf().unwrap()), (gelu_tanh(&xs).unwrap(), xs.gelu().unwrap())]
        {
            let distance = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(distance.to_scalar::<f32>().unwrap() < 1e-6);
        }
    }
}
