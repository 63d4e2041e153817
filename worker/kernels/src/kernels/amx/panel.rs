//! Activations as panels of bf16.
use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{Amx, PANEL_ROWS};
use crate::{
    Activation,
    cells::{Sums, TILE},
    formulas::{gelu_erf_of, gelu_tanh_of},
    inputs::{BLOCK, Bf16Input},
};

/// Blocks of a row that are converted before the next row's: what they become lies together with its neighbours in the first-level
/// cache, where a whole row's would lie a panel's width apart and drive each other out.
const BLOCKS: usize = 8;

impl Amx {
    /// Rows of `inputs` values as a panel: block by block, the rows side by side. A last block is filled up with zeros.
    #[expect(clippy::unused_self, reason = "the value is proof of the features")]
    pub(crate) fn to_panel(self, xs: &[f32], inputs: usize, panel: &mut [Bf16Input]) {
        // SAFETY: `self` is proof of the features.
        unsafe { to_panel(xs, inputs, panel) }
    }

    /// Sums of at most [`PANEL_ROWS`] rows for the outputs of a tile, with bias (as long as the tile, or shorter) and function, as blocks
    /// of a panel. All rows at once, for a function's steps wait for each other within a row.
    #[expect(clippy::unused_self, reason = "the value is proof of the features")]
    pub(crate) fn activated(
        self,
        sums: &[Sums],
        bias: &[f32],
        activation: Activation,
        into: &mut [MaybeUninit<Bf16Input>],
    ) {
        // SAFETY: `self` is proof of the features.
        unsafe { activated(sums, bias, activation, into) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn activated(sums: &[Sums], bias: &[f32], activation: Activation, into: &mut [MaybeUninit<Bf16Input>]) {
    let mut biases = [0.0; TILE];
    biases[..bias.len()].copy_from_slice(bias);
    let (mut xs, mut ys) = ([[0.0; TILE]; PANEL_ROWS], [[0.0; TILE]; PANEL_ROWS]);
    let (xs, ys) = (&mut xs[..sums.len()], &mut ys[..sums.len()]);
    for (xs, sums) in xs.iter_mut().zip(sums) {
        for ((x, sum), bias) in xs.iter_mut().zip(sums).zip(&biases) {
            *x = sum + bias;
        }
    }
    match activation {
        Activation::GeluErf => gelu_erf_of(xs.as_flattened(), ys.as_flattened_mut()),
        Activation::GeluTanh => gelu_tanh_of(xs.as_flattened(), ys.as_flattened_mut()),
    }
    for (y, into) in ys.iter().zip(into) {
        into.write(rounded(y));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn to_panel(xs: &[f32], inputs: usize, panel: &mut [Bf16Input]) {
    let rows = xs.len() / inputs;
    for (group, panel) in panel.chunks_mut(BLOCKS * rows).enumerate() {
        for (row, xs) in xs.chunks_exact(inputs).enumerate() {
            let xs = &xs[group * BLOCKS * BLOCK..];
            let (blocks, rest) = xs.as_chunks::<BLOCK>();
            let mut into = panel[row..].iter_mut().step_by(rows);
            for (block, x) in blocks.iter().zip(into.by_ref()) {
                *x = rounded(block);
            }
            if let Some(x) = into.next() {
                let mut block = [0.0; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                *x = rounded(&block);
            }
        }
    }
}

/// The block in bf16, each value as the plain function (`f32_to_bf16`) has it but for numbers that are not normal, which become zeros: products in tiles
/// take them for zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(block: &[f32; BLOCK]) -> Bf16Input {
    let (low, high) = block.split_at(BLOCK / 2);
    // SAFETY: both halves are as long as the vector; the loads take any alignment.
    let halves = unsafe { [_mm512_loadu_ps(low.as_ptr()), _mm512_loadu_ps(high.as_ptr())] };
    let [low, high] = [halves[0], halves[1]].map(|values| finite_stays_finite(values));
    // SAFETY: the types differ in name alone: 512 bits of which every pattern is valid.
    Bf16Input(unsafe { std::mem::transmute::<__m512bh, [u32; BLOCK / 2]>(_mm512_cvtne2ps_pbh(high, low)) })
}

/// Numbers beyond the largest bf16 cut to it, which would round to infinity.
#[inline]
#[target_feature(enable = "avx512f")]
fn finite_stays_finite(values: __m512) -> __m512 {
    const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
    let is_finite = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(_mm512_abs_ps(values), _mm512_set1_ps(f32::MAX));
    let values = _mm512_mask_min_ps(values, is_finite, values, _mm512_set1_ps(LARGEST));
    _mm512_mask_max_ps(values, is_finite, values, _mm512_set1_ps(-LARGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{half_bits::f32_to_bf16, inputs::Input as _};

    #[test]
    fn rounding_is_that_of_the_plain_function() {
        let Some(_) = Amx::detect() else {
            eprintln!("not tested: this processor has no tiles of bf16");
            return;
        };
        for step in 0..=u32::MAX / 4099 / BLOCK as u32 {
            let block: [f32; BLOCK] =
                std::array::from_fn(|i| f32::from_bits((step * BLOCK as u32 + i as u32).wrapping_mul(4099)));
            // SAFETY: the proof is above.
            let found = unsafe { rounded(&block) };
            for (i, &value) in block.iter().enumerate() {
                let found = (found.0[i / 2] >> (16 * (i % 2))) as u16;
                let plain = f32_to_bf16(value);
                let expected = if value.is_subnormal() { plain & 0x8000 } else { plain };
                assert_eq!(found, expected, "{value}");
            }
        }
    }

    #[test]
    fn a_panel_is_that_of_the_plain_function() {
        let Some(amx) = Amx::detect() else {
            eprintln!("not tested: this processor has no tiles of bf16");
            return;
        };
        for (rows, inputs) in [(1usize, 1usize), (3, 31), (32, 32), (7, 257), (17, 600), (2, 40)] {
            let xs: Vec<f32> = (0..rows * inputs).map(|i| i as f32 * 0.37 - 50.0).collect();
            let blocks = inputs.div_ceil(BLOCK);
            let (mut found, mut expected) =
                (vec![Bf16Input([7; 16]); rows * blocks], vec![Bf16Input::ZERO; rows * blocks]);
            amx.to_panel(&xs, inputs, &mut found);
            for (row, xs) in xs.chunks_exact(inputs).enumerate() {
                crate::inputs::convert(xs, &mut expected[row..], rows);
            }
            let bits = |panel: &[Bf16Input]| panel.iter().flat_map(|x| x.0).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{rows} rows of {inputs}");
        }
    }
}
