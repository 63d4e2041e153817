//! Activations in the form that the kernels read.
use std::{cell::Cell, thread::LocalKey};

use crate::half_bits::f32_to_bf16;

/// Inputs of a block of activations, whatever the format of the weights.
pub(crate) const BLOCK: usize = 32;

/// Below this, a block counts as zero: its scale would not be a normal number.
const SMALLEST: f32 = f32::MIN_POSITIVE * 128.0;

/// One row's activations of [`BLOCK`] inputs.
pub(crate) trait Input: Copy + Send + Sync + 'static {
    /// Activations that add nothing.
    const ZERO: Self;

    /// The activations `block`.
    fn of(block: &[f32; BLOCK]) -> Self;

    /// Where a thread keeps its last buffer, so that a product need not ask for memory.
    fn spare() -> &'static LocalKey<Cell<Vec<Self>>>;
}

/// As they are.
pub(crate) type F32Input = [f32; BLOCK];

impl Input for F32Input {
    const ZERO: Self = [0.0; BLOCK];

    #[inline(always)]
    fn of(block: &[f32; BLOCK]) -> Self {
        *block
    }

    fn spare() -> &'static LocalKey<Cell<Vec<Self>>> {
        thread_local!(static SPARE: Cell<Vec<F32Input>> = const { Cell::new(Vec::new()) });
        &SPARE
    }
}

/// Rounded to bf16, in pairs with the first in the lower bits; a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Bf16Input(pub(crate) [u32; BLOCK / 2]);

impl Input for Bf16Input {
    const ZERO: Self = Self([0; BLOCK / 2]);

    #[inline(always)]
    fn of(block: &[f32; BLOCK]) -> Self {
        let mut pairs = Self::ZERO;
        for (pair, &values) in pairs.0.iter_mut().zip(block.as_chunks::<2>().0) {
            let [first, second] = values.map(f32_to_bf16).map(u32::from);
            *pair = first | second << 16;
        }
        pairs
    }

    fn spare() -> &'static LocalKey<Cell<Vec<Self>>> {
        thread_local!(static SPARE: Cell<Vec<Bf16Input>> = const { Cell::new(Vec::new()) });
        &SPARE
    }
}

/// Rounded to 8 bits with one scale, and what corrects a sum of products for the weights' offset:
/// weights are stored as `quant + OFFSET`, so that their sum of products is too large by `OFFSET`
/// times the sum of the activations.
#[derive(Clone, Copy)]
pub(crate) struct Q8Input<const OFFSET: i32> {
    pub(crate) quants: [[i8; 4]; BLOCK / 4],
    pub(crate) scale: f32,
    /// `-OFFSET` times the sum of `quants`.
    pub(crate) correction: i32,
}

/// Activations for `Q8_0` weights.
pub(crate) type ForQ8 = Q8Input<128>;
/// Activations for `Q4_0` weights.
pub(crate) type ForQ4 = Q8Input<8>;

/// Rounded to 8 bits with one scale, and their sum, for weights with an offset in f32.
#[derive(Clone, Copy)]
pub(crate) struct ForQ4K {
    pub(crate) quants: [[i8; 4]; BLOCK / 4],
    pub(crate) scale: f32,
    /// Of `quants`, without the scale: times the scale, it may be no number where the product with an offset is one.
    pub(crate) sum: f32,
}

macro_rules! quantised_input {
    ($name:ident, |$block:ident| $of:expr, $zero:expr) => {
        impl Input for $name {
            const ZERO: Self = $zero;

            #[inline(always)]
            fn of($block: &[f32; BLOCK]) -> Self {
                $of
            }

            fn spare() -> &'static LocalKey<Cell<Vec<Self>>> {
                thread_local!(static SPARE: Cell<Vec<$name>> = const { Cell::new(Vec::new()) });
                &SPARE
            }
        }
    };
}

impl<const OFFSET: i32> Q8Input<OFFSET> {
    const NOTHING: Self = Self { quants: [[0; 4]; BLOCK / 4], scale: 0.0, correction: 0 };

    #[inline(always)]
    fn rounded(block: &[f32; BLOCK]) -> Self {
        let (quants, scale, sum) = quantise(block);
        Self { quants, scale, correction: -OFFSET * sum }
    }
}

quantised_input!(ForQ8, |block| Self::rounded(block), Self::NOTHING);
quantised_input!(ForQ4, |block| Self::rounded(block), Self::NOTHING);
quantised_input!(
    ForQ4K,
    |block| {
        let (quants, scale, sum) = quantise(block);
        Self { quants, scale, sum: sum as f32 }
    },
    Self { quants: [[0; 4]; BLOCK / 4], scale: 0.0, sum: 0.0 }
);

/// The block in 8 bits, its scale, and the sum of the integers. A block with anything that is not
/// finite has the scale NaN.
#[inline(always)]
fn quantise(block: &[f32; BLOCK]) -> ([[i8; 4]; BLOCK / 4], f32, i32) {
    // Magnitudes order like their bits, and what is not finite has the greatest.
    let largest = block.iter().fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let (scale, inverse) = if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < SMALLEST {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    };
    // Added to this, a small number is rounded to an integer, ties to even, in the lowest bits.
    let integers = 12_582_912.0;
    let (mut quants, mut sum) = ([[0; 4]; BLOCK / 4], 0);
    for (quant, value) in quants.as_flattened_mut().iter_mut().zip(block) {
        *quant = (value * inverse + integers).to_bits() as i8;
        sum += i32::from(*quant);
    }
    (quants, scale, sum)
}

/// Converts a row into every `stride`th of `into`; the last block is filled up with zeros.
#[inline(always)]
pub(crate) fn convert<X: Input>(row: &[f32], into: &mut [X], stride: usize) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    let mut into = into.iter_mut().step_by(stride);
    for (block, x) in blocks.iter().zip(into.by_ref()) {
        *x = X::of(block);
    }
    if let Some(x) = into.next().filter(|_| !rest.is_empty()) {
        let mut block = [0.0; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        *x = X::of(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_of_255_steps() {
        let mut block = [0.0; BLOCK];
        for (i, value) in block.iter_mut().enumerate() {
            *value = (i as f32 - 11.3) * 0.37;
        }
        let (quants, scale, sum) = quantise(&block);
        assert_eq!(sum, quants.as_flattened().iter().map(|&quant| i32::from(quant)).sum::<i32>());
        for (&quant, value) in quants.as_flattened().iter().zip(block) {
            assert!((f32::from(quant) * scale - value).abs() <= scale * 0.5001, "{quant} {value}");
        }
        assert_eq!(quants.as_flattened().iter().map(|quant| quant.unsigned_abs()).max(), Some(127));
    }

    #[test]
    fn extremes_have_a_scale() {
        assert_eq!(quantise(&[0.0; BLOCK]).1, 0.0);
        assert_eq!(quantise(&[1e-38; BLOCK]).1, 0.0);
        assert_eq!(quantise(&[f32::MIN; BLOCK]).0, [[-127; 4]; 8]);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut block = [1.0; BLOCK];
            block[17] = odd;
            assert!(quantise(&block).1.is_nan());
        }
    }

    #[test]
    fn a_row_is_filled_up_with_zeros() {
        let mut into = [F32Input::ZERO; 6];
        convert(&[1.0; 40], &mut into[1..], 3);
        assert_eq!(into[1], [1.0; 32]);
        assert_eq!(into[4][..8], [1.0; 8]);
        assert_eq!(into[4][8..], [0.0; 24]);
        assert_eq!(into[0], F32Input::ZERO);
    }
}
