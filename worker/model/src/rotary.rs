//! Rotary positions on the leading dimensions of each head.
use candle_core::{DType, Device, Result, Tensor};

use crate::PhiConfig;

/// Cosines and sines, `(positions, rotary_dim / 2)`.
///
/// They are rounded to f16, as the reference's buffers are: tables in full precision move its
/// logits by about 5e-4.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    /// Leading dimensions of a head that are rotated.
    dim: usize,
}

/// Cosines and sines of chosen positions.
#[derive(Debug)]
pub(crate) struct RotaryRows {
    cos: Tensor,
    sin: Tensor,
    /// Leading dimensions of a head that are rotated.
    dim: usize,
}

impl Rotary {
    pub(crate) fn new(config: &PhiConfig, device: &Device) -> Result<Self> {
        let half = config.rotary_dim / 2;
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / config.rotary_dim as f32;
            1.0 / (config.rope_theta as f32).powf(exponent)
        };
        let angles: Vec<f32> = (0..config.max_positions)
            .flat_map(|position| (0..half).map(move |i| position as f32 * frequency(i)))
            .collect();
        let table = |f: fn(f32) -> f32| {
            let values = angles.iter().map(|&angle| half::f16::from_f32(f(angle)));
            Tensor::from_iter(values, device)?.reshape((config.max_positions, half))?.to_dtype(DType::F32)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)?, dim: config.rotary_dim })
    }

    pub(crate) fn rows(&self, positions: &[u32]) -> Result<RotaryRows> {
        self.rows_at(&Tensor::new(positions, self.cos.device())?)
    }

    /// Of positions `(rows)` that lie on the device already.
    pub(crate) fn rows_at(&self, positions: &Tensor) -> Result<RotaryRows> {
        Ok(RotaryRows {
            cos: self.cos.index_select(positions, 0)?,
            sin: self.sin.index_select(positions, 0)?,
            dim: self.dim,
        })
    }
}

impl RotaryRows {
    /// From cosines and sines `(positions, pairs)`.
    pub(crate) fn of(cos: Tensor, sin: Tensor) -> Result<Self> {
        let dim = 2 * cos.dim(1)?;
        Ok(Self { cos, sin, dim })
    }

    /// Cosines and sines `(positions, pairs)`.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only kernels read it"))]
    pub(crate) fn tables(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    /// As [`RotaryRows::apply`], for `(B, heads, T, d)` and with gradients.
    pub(crate) fn turn(&self, xs: &Tensor) -> Result<Tensor> {
        let (_, _, _, width) = xs.dims4()?;
        let half = self.dim / 2;
        let (one, other) = (xs.narrow(3, 0, half)?, xs.narrow(3, half, half)?);
        let by = |xs: &Tensor, table: &Tensor| xs.broadcast_mul(table);
        let mut parts = vec![
            (by(&one, &self.cos)? - by(&other, &self.sin)?)?,
            (by(&other, &self.cos)? + by(&one, &self.sin)?)?,
        ];
        if self.dim < width {
            parts.push(xs.narrow(3, self.dim, width - self.dim)?);
        }
        Tensor::cat(&parts, 3)
    }

    /// Rotates `(T, heads, d)`, dimension `j` with `j + dim / 2`, into `(heads, T, d)`.
    pub(crate) fn apply(&self, xs: &Tensor) -> Result<Tensor> {
        let (_, _, width) = xs.dims3()?;
        let xs = xs.transpose(0, 1)?;
        if self.dim == 0 {
            return xs.contiguous();
        }
        let turned = xs.narrow(2, 0, self.dim)?.contiguous()?.unsqueeze(0)?;
        let turned = candle_nn::rotary_emb::rope(&turned, &self.cos, &self.sin)?.squeeze(0)?;
        if self.dim == width {
            return Ok(turned);
        }
        let rest = xs.narrow(2, self.dim, width - self.dim)?.contiguous()?;
        Tensor::cat(&[turned, rest], 2)
    }
}
