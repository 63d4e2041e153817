//! Plain Rust, in loops that compilers turn into vectors.
use std::mem::MaybeUninit;

use super::{Kernels, by_rows};
use crate::{
    cells::{Bf16Cell, F16Cell, F32Cell, Nibbles, Q4Cell, Q4KCell, Q8Cell, Quads, Sums, TILE},
    finish::Finish,
    half_bits::{bf16_to_f32, f16_to_f32},
    inputs::{self, BLOCK, F32Input, ForQ4, ForQ4K, ForQ8, Input},
};

/// Runs everywhere.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Kernels for Portable {
    const DENSE_ROWS: usize = 4;
    const QUANTISED_ROWS: usize = 4;
    type Bf16 = F32Input;

    fn convert<X: Input>(self, row: &[f32], into: &mut [X], stride: usize) {
        inputs::convert(row, into, stride);
    }

    fn finish(self, sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]) {
        finish.write(sums, out);
    }

    fn f32(self, cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], f32(cells, panel));
    }

    fn f16(self, cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], f16(cells, panel));
    }

    fn bf16(self, cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], bf16(cells, panel));
    }

    fn q8_0(self, cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], q8_0(cells, panel));
    }

    fn q4_0(self, cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], q4_0(cells, panel));
    }

    fn q4_k(self, cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums]) {
        by_rows!(sums, [1 2 3 4], q4_k(cells, panel));
    }
}

fn f32<const R: usize>(cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    dense(cells, panel, sums, |cell| [cell.0]);
}

fn f16<const R: usize>(cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    dense(cells, panel, sums, |cell| [cell.0.map(f16_to_f32)]);
}

fn bf16<const R: usize>(cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    dense(cells, panel, sums, |cell| [0, 1].map(|i| cell.0.map(|pair| bf16_to_f32(pair[i]))));
}

#[inline(always)]
fn dense<const R: usize, const N: usize, C>(
    cells: &[C],
    panel: &[F32Input],
    sums: &mut [Sums; R],
    widen: impl Fn(&C) -> [[f32; TILE]; N],
) {
    for (cells, xs) in cells.chunks(BLOCK / N).zip(panel.as_chunks::<R>().0) {
        for (i, cell) in cells.iter().enumerate() {
            for (j, weights) in widen(cell).iter().enumerate() {
                for (sums, x) in sums.iter_mut().zip(xs) {
                    add_scaled(sums, weights, x[i * N + j]);
                }
            }
        }
    }
}

fn q8_0<const R: usize>(cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums; R]) {
    for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
        let scales = cell.scales.map(f16_to_f32);
        for (sums, x) in sums.iter_mut().zip(xs) {
            add_scaled(sums, &scaled(&scales, &quads(&cell.quants, &x.quants, x.correction)), x.scale);
        }
    }
}

fn q4_0<const R: usize>(cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums; R]) {
    for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
        let (scales, quants) = (cell.scales.map(f16_to_f32), spread(&cell.quants));
        for (sums, x) in sums.iter_mut().zip(xs) {
            add_scaled(sums, &scaled(&scales, &quads(&quants, &x.quants, x.correction)), x.scale);
        }
    }
}

fn q4_k<const R: usize>(cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums; R]) {
    let mut panel = panel.as_chunks::<R>().0.iter();
    for cell in cells {
        let (scales, offsets) = (cell.scales.map(f16_to_f32), cell.offsets.map(f16_to_f32));
        for (block, xs) in cell.blocks.iter().zip(panel.by_ref()) {
            let scales: Sums = std::array::from_fn(|i| scales[i] * f32::from(block.scales[i]));
            let offsets: Sums = std::array::from_fn(|i| offsets[i] * f32::from(block.offsets[i]));
            let quants = spread(&block.quants);
            for (sums, x) in sums.iter_mut().zip(xs) {
                let mut values = scaled(&scales, &quads(&quants, &x.quants, 0));
                values.iter_mut().zip(&offsets).for_each(|(value, offset)| *value -= offset * x.sum);
                add_scaled(sums, &values, x.scale);
            }
        }
    }
}

/// Sums of products of integers, `start` added.
#[inline(always)]
fn quads(weights: &Quads, x: &[[i8; 4]; 8], start: i32) -> [i32; TILE] {
    let mut sums = [start; TILE];
    for (weights, x) in weights.iter().zip(x) {
        for (sum, weights) in sums.iter_mut().zip(weights.as_flattened()) {
            *sum += weights.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>();
        }
    }
    sums
}

#[inline(always)]
fn spread(nibbles: &Nibbles) -> Quads {
    nibbles.map(|group| [group.map(|quad| quad.map(|q| q & 0x0f)), group.map(|quad| quad.map(|q| q >> 4))])
}

#[inline(always)]
fn scaled(scales: &Sums, integers: &[i32; TILE]) -> Sums {
    std::array::from_fn(|i| scales[i] * integers[i] as f32)
}

#[inline(always)]
fn add_scaled(sums: &mut Sums, values: &Sums, by: f32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        // Without an instruction for it, `mul_add` is a slow call.
        *sum = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            value.mul_add(by, *sum)
        } else {
            *sum + value * by
        };
    }
}
