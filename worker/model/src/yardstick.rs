//! What the device can do at best: a product and a copy, to hold a step's time against.

use std::time::Instant;

use candle_core::{DType, Device, Module, Result, Tensor, quantized::QTensor};
use rayon::prelude::*;

use crate::{Linear, bundle::StoredTensor, pack::WeightFormat, packed::Packed};

/// Runs of a measurement, of which the best counts: whatever else runs on the machine only ever slows it down.
const RUNS: usize = 5;

/// Multiplications and additions a second in one large product with weights of that type.
///
/// # Errors
/// What the device says.
pub fn flops_per_second(device: &Device, format: WeightFormat) -> Result<f64> {
    // On a CPU small enough for its caches, on a GPU large enough to keep all of it busy.
    let (rows, side) = if device.is_cpu() { (384, 1536) } else { (4096, 4096) };
    let weight = Tensor::randn(0f32, 1.0, (side, side), &Device::Cpu)?;
    let xs = Tensor::randn(0f32, 1.0, (rows, side), &Device::Cpu)?;
    let seconds = if device.is_cpu() {
        let stored = QTensor::quantize(&weight, format.dtype())?;
        let bytes = stored.data()?;
        let stored = StoredTensor { dtype: format.dtype(), shape: weight.dims(), bytes: &bytes };
        let layer = match Packed::of_stored(&stored)? {
            Some(packed) => Linear::packed(packed, None),
            None => candle_core::bail!("{format} has no products on a CPU"),
        };
        best(device, || layer.forward(&xs).map(drop))?
    } else {
        // The product alone, of what is in half precision already: casts around it are no part of what the device can do.
        let dtype = if format == WeightFormat::BF16 { DType::BF16 } else { DType::F16 };
        let [xs, weight] = [xs, weight].map(|tensor| tensor.to_device(device)?.to_dtype(dtype));
        let (xs, weight) = (xs?, weight?.t()?);
        best(device, || xs.matmul(&weight).map(drop))?
    };
    Ok(2.0 * (rows * side * side) as f64 / seconds)
}

/// Bytes read and written a second by a large copy.
///
/// # Errors
/// What the device says.
pub fn bytes_per_second(device: &Device) -> Result<f64> {
    const COUNT: usize = 64 << 20;
    let seconds = if device.is_cpu() {
        let from = vec![1f32; COUNT];
        let mut to = vec![0f32; COUNT];
        let piece = COUNT / rayon::current_num_threads().max(1);
        best(device, || {
            to.par_chunks_mut(piece)
                .zip(from.par_chunks(piece))
                .for_each(|(to, from)| to.copy_from_slice(from));
            Ok(())
        })?
    } else {
        let from = Tensor::zeros(COUNT, DType::F32, device)?;
        best(device, || from.copy().map(drop))?
    };
    Ok((2 * COUNT * size_of::<f32>()) as f64 / seconds)
}

fn best(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        device.synchronize()?;
        let since = Instant::now();
        run()?;
        device.synchronize()?;
        least = least.min(since.elapsed().as_secs_f64());
    }
    Ok(least)
}
