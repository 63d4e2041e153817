//! The functions between products in plain arithmetic, without branches or calls, so that the compiler makes vectors of them
//! in whatever instruction set calls them. Products and sums are not fused anywhere, so **every processor gives the same bits**.
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use crate::cells::Sums;

/// A function that follows a product, value by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// As [`gelu_erf`](crate::gelu_erf).
    GeluErf,
    /// As [`gelu_tanh`](crate::gelu_tanh).
    GeluTanh,
}

/// Lanes of a sum: its order is the same whatever the width of a vector.
pub(crate) const LANES: usize = 16;
/// Values whose sum in f32 loses next to nothing; sums of more are added up in f64.
const BLOCK: usize = 1024;
/// Adding it rounds to a whole number, which lies in the lower bits: 1.5 · 2^23.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, of which the first times any exponent is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Below it, e^x is no normal number and counts as zero.
const LEAST_EXPONENT: f32 = -87.3;
/// Above it, e^x is close to the largest number and counts as infinite.
const LARGEST_EXPONENT: f32 = 88.7;

#[inline(always)]
pub(crate) fn layer_norm_of(row: &[f32], weight: &[f32], bias: &[f32], eps: f64, out: &mut [f32]) {
    let mean = sum(row, |x| x) / row.len() as f32;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
    if !variance.is_finite() {
        return layer_norm_in_f64(row, weight, bias, eps, out);
    }
    let scale = 1.0 / (f64::from(variance) + eps).sqrt() as f32;
    for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

#[inline(always)]
pub(crate) fn rms_norm_of(row: &[f32], weight: &[f32], eps: f64, out: &mut [f32]) {
    let mean_square = sum(row, |x| x * x) / row.len() as f32;
    if !mean_square.is_finite() {
        return rms_norm_in_f64(row, weight, eps, out);
    }
    let scale = 1.0 / (f64::from(mean_square) + eps).sqrt() as f32;
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
        *out = x * scale * weight;
    }
}

/// The same for a row whose squares no f32 can hold; such a row is rare.
#[cold]
#[inline(never)]
fn layer_norm_in_f64(row: &[f32], weight: &[f32], bias: &[f32], eps: f64, out: &mut [f32]) {
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((out, &x), &weight), &bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
        *out = ((f64::from(x) - mean) * scale * f64::from(weight) + f64::from(bias)) as f32;
    }
}

/// The same for a row whose squares no f32 can hold; such a row is rare.
#[cold]
#[inline(never)]
fn rms_norm_in_f64(row: &[f32], weight: &[f32], eps: f64, out: &mut [f32]) {
    let mean_square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(row).zip(weight) {
        *out = (f64::from(x) * scale * f64::from(weight)) as f32;
    }
}

/// A sum in lanes: it rounds less than one long chain.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += term(x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| term(x)).sum::<f32>()
}

#[inline(always)]
pub(crate) fn gelu_erf_of(xs: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(xs) {
        let tail = 0.5 * erfc_of_positive(x.abs() * FRAC_1_SQRT_2);
        let below = if x < 0.0 { tail } else { 1.0 - tail };
        *out = x * below;
    }
}

#[inline(always)]
pub(crate) fn gelu_tanh_of(xs: &[f32], out: &mut [f32]) {
    // 0.5 (1 + tanh y) = 1 / (1 + e^-2y)
    const SCALE: f32 = -2.0 * 0.797_884_6;
    for (out, &x) in out.iter_mut().zip(xs) {
        *out = x / (1.0 + exp(SCALE * (x + 0.044_715 * x * x * x)));
    }
}

/// The same bits as those of the functions above, for the sums of a tile.
#[inline(always)]
pub(crate) fn activate(activation: Activation, sums: &mut Sums) {
    let xs = *sums;
    match activation {
        Activation::GeluErf => gelu_erf_of(&xs, sums),
        Activation::GeluTanh => gelu_tanh_of(&xs, sums),
    }
}

/// The largest value, in lanes; minus infinity of none, and of nothing but NaN.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, &x) in most.iter_mut().zip(chunk) {
            *most = if x > *most { x } else { *most };
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most })
}

#[inline(always)]
pub(crate) fn log_sum_exp_of(row: &[f32], total: &mut f64) {
    let most = largest(row);
    let mut all = 0.0;
    // A loop and no chain of iterators, whose functions would keep to the instructions of every processor.
    for block in row.chunks(BLOCK) {
        all += f64::from(sum(block, |x| exp(x - most)));
    }
    *total = f64::from(most) + all.ln();
}

#[inline(always)]
pub(crate) fn softmax_of(row: &mut [f32]) {
    let most = largest(row);
    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - most);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *x = exp(*x - most);
        *sum += *x;
    }
    let share = 1.0 / sums.iter().sum::<f32>();
    for x in row {
        *x *= share;
    }
}

/// e^x: 2^n e^r with |r| ≤ ln 2 / 2, where a polynomial is 3e-9 away relatively.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let within = if x < LEAST_EXPONENT { LEAST_EXPONENT } else { x };
    let within = if within > LARGEST_EXPONENT { LARGEST_EXPONENT } else { within };
    let rounded = within * LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let r = within - whole * LN_2[0] - whole * LN_2[1];
    let tail = 0.041_668_39 + r * (0.008_368_718 + r * 0.001_381_459);
    let e = 1.0 + r * (1.0 + r * (0.499_999_94 + r * (0.166_665_21 + r * tail)));
    // Twice half the power: 2^128 is no number.
    let whole = rounded.to_bits().wrapping_sub(ROUNDER.to_bits());
    let half = f32::from_bits(whole.wrapping_add(126) << 23);
    let e = e * half * 2.0;
    let e = if x > LARGEST_EXPONENT { f32::INFINITY } else { e };
    if x < LEAST_EXPONENT { 0.0 } else { e }
}

/// erfc(t) for t ≥ 0 as e^(-t²) times a polynomial in 1 / (1 + 0.36 t), a form of Hastings (Abramowitz & Stegun 7.1.26),
/// with coefficients of our own that are 6e-9 away.
#[inline(always)]
fn erfc_of_positive(t: f32) -> f32 {
    let u = 1.0 / (1.0 + 0.36 * t);
    let tail = 0.147_532_52 + u * (-0.094_540_58 + u * (0.435_874_1 + u * -0.137_557_45));
    let q = u * (0.209_232_33 + u * (0.162_994_17 + u * (0.276_464_9 + u * tail)));
    q * exp(-t * t)
}
