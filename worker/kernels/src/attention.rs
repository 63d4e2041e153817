//! Scaled dot-product attention of one sequence: the scores of a few queries at a time, which never leave the cache.
//!
//! Keys and values of a head are packed like the weights of a matrix, so that the products are those of
//! [`PackedMatrix`](crate::PackedMatrix), in f32 or in tiles of bf16, and a row's bits do not depend on the other rows.
use rayon::prelude::*;

use crate::{
    Backend, ProductError,
    backend::with_kernels,
    cells::{Cell, F32Cell, Sums, TILE},
    inputs::{F32Input, Input},
    kernels::{Kernels, MOST_ROWS},
    output::{Output, overwritten},
    split::{Panels, threads},
    weighing::{weigh, weigh_in_f64},
};

#[cfg(target_arch = "x86_64")]
mod in_tiles;

/// An operand `(heads, rows, width)` that lies anywhere, as long as the values of a row lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// From the first value of the first row of the first head on.
    pub values: &'a [f32],
    /// Values from one head's row to the same row of the next head.
    pub head_stride: usize,
    /// Values from one row to the next of the same head.
    pub row_stride: usize,
}

impl Heads<'_> {
    pub(crate) fn row(&self, head: usize, row: usize, width: usize) -> &[f32] {
        &self.values[head * self.head_stride + row * self.row_stride..][..width]
    }

    /// Refuses an operand that ends before its last row does.
    pub(crate) fn check(&self, heads: usize, rows: usize, width: usize) -> Result<(), ProductError> {
        let last = (heads - 1).checked_mul(self.head_stride);
        let last = last.zip((rows - 1).checked_mul(self.row_stride));
        let needed = last.and_then(|(head, row)| head.checked_add(row)?.checked_add(width));
        match needed {
            Some(needed) if needed <= self.values.len() => Ok(()),
            _ => Err(ProductError::Heads { found: self.values.len(), heads, rows, width }),
        }
    }
}

/// What attends to what.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Heads of all three operands.
    pub heads: usize,
    /// Values of a row in a head.
    pub width: usize,
    /// Rows of the queries.
    pub queries: usize,
    /// Rows of the keys and of the values.
    pub keys: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Added to the scores: `(keys)` for every query, or `(queries, keys)`.
    pub mask: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Softmax of `scale q kᵀ + mask`, times `v`: `out` is `(queries, heads * width)`. On the threads of the current
    /// rayon pool, a head at a time each. [`Backend::Amx`] rounds operands and weights to bf16, the others multiply in f32.
    ///
    /// # Errors
    /// Operands, mask or output that do not fit; `out` is untouched then. A back end that this processor cannot run.
    pub fn run(
        &self,
        backend: Backend,
        [q, k, v]: [Heads<'_>; 3],
        out: &mut [f32],
    ) -> Result<(), ProductError> {
        let expected = self.queries.saturating_mul(self.heads.saturating_mul(self.width));
        if out.len() != expected {
            return Err(ProductError::Outputs { found: out.len(), expected });
        }
        if let Some(mask) = self.mask
            && mask.len() != self.keys
            && Some(mask.len()) != self.queries.checked_mul(self.keys)
        {
            return Err(ProductError::Inputs { found: mask.len(), inputs: self.keys });
        }
        let detected = backend.detect()?;
        if out.is_empty() {
            return Ok(());
        }
        q.check(self.heads, self.queries, self.width)?;
        if self.keys == 0 {
            out.fill(f32::NAN);
            return Ok(());
        }
        k.check(self.heads, self.keys, self.width)?;
        v.check(self.heads, self.keys, self.width)?;
        let work = Work { attention: self, backend, q, k, v };
        #[cfg(target_arch = "x86_64")]
        if let crate::backend::Detected::Amx(amx) = detected {
            work.run(out, |head, out| in_tiles::head(amx, &work, head, out));
            return Ok(());
        }
        with_kernels!(detected, |kernels| work.run(out, |head, out| work.head(kernels, head, out)));
        Ok(())
    }

    fn mask_of(&self, query: usize) -> Option<&[f32]> {
        let mask = self.mask?;
        Some(if mask.len() == self.keys { mask } else { &mask[query * self.keys..][..self.keys] })
    }
}

/// Operands that have been checked.
struct Work<'a> {
    attention: &'a Attention<'a>,
    backend: Backend,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
}

impl Work<'_> {
    fn run(&self, out: &mut [f32], one: impl Fn(usize, &Output<'_>) + Sync) {
        let Attention { heads, width, queries, keys, .. } = *self.attention;
        let out = Output::new(overwritten(out), heads * width);
        if threads(heads * queries, width, keys.div_ceil(TILE)) > 1 {
            (0..heads).into_par_iter().for_each(|head| one(head, &out));
        } else {
            (0..heads).for_each(|head| one(head, &out));
        }
    }

    /// From the scores of a query to the weights of the keys.
    fn weigh(&self, head: usize, query: usize, scores: &mut [f32]) {
        let Attention { width, scale, .. } = *self.attention;
        let (mask, mut are_numbers) = (self.attention.mask_of(query), true);
        weigh(self.backend, scores, mask, &mut are_numbers);
        if !are_numbers {
            let query = self.q.row(head, query, width);
            weigh_in_f64(query, |key| self.k.row(head, key, width), scale, mask, scores);
        }
    }

    /// Writes a query's sums of a tile.
    ///
    /// # Safety
    /// Nobody else writes that head of that row meanwhile.
    unsafe fn write(&self, head: usize, query: usize, tile: usize, sums: &Sums, out: &Output<'_>) {
        let width = self.attention.width;
        let length = TILE.min(width - tile * TILE);
        // SAFETY: the caller's promise.
        let out = unsafe { out.part(query, head * width + tile * TILE, length) };
        out.write_copy_of_slice(&sums[..length]);
    }

    fn head<K: Kernels>(&self, kernels: K, head: usize, out: &Output<'_>) {
        let Attention { width, queries, keys, scale, .. } = *self.attention;
        let packed_keys = self.packed_keys(head);
        let packed_values = self.packed_values(head);
        let panels = Panels::even(queries, K::DENSE_ROWS);
        let blocks = |inputs: usize| inputs.div_ceil(F32Input::ZERO.len());
        let mut scaled = vec![0f32; width];
        let mut scores = vec![0f32; K::DENSE_ROWS * keys];
        let mut buffer = vec![F32Input::ZERO; K::DENSE_ROWS * blocks(width.max(keys))];
        let mut sums = [[0f32; TILE]; MOST_ROWS];
        for rows in (0..panels.count()).map(|panel| panels.rows(panel)) {
            let (count, sums) = (rows.len(), &mut sums[..rows.len()]);
            for (at, row) in rows.clone().enumerate() {
                for (scaled, x) in scaled.iter_mut().zip(self.q.row(head, row, width)) {
                    *scaled = x * scale;
                }
                kernels.convert(&scaled, &mut buffer[at..], count);
            }
            let panel = &buffer[..count * blocks(width)];
            for (tile, cells) in packed_keys.chunks_exact(width).enumerate() {
                sums.fill([0.0; TILE]);
                kernels.f32(cells, panel, sums);
                let first = tile * TILE;
                let length = TILE.min(keys - first);
                for (at, sums) in sums.iter().enumerate() {
                    scores[at * keys + first..][..length].copy_from_slice(&sums[..length]);
                }
            }
            for (at, row) in rows.clone().enumerate() {
                let scores = &mut scores[at * keys..][..keys];
                self.weigh(head, row, scores);
                kernels.convert(scores, &mut buffer[at..], count);
            }
            let panel = &buffer[..count * blocks(keys)];
            for (tile, cells) in packed_values.chunks_exact(keys).enumerate() {
                sums.fill([0.0; TILE]);
                kernels.f32(cells, panel, sums);
                for (row, sums) in rows.clone().zip(sums.iter()) {
                    // SAFETY: heads have other columns, and the reference is dropped before the next is made.
                    unsafe { self.write(head, row, tile, sums, out) };
                }
            }
        }
    }

    /// A matrix of `keys` outputs and `width` inputs.
    fn packed_keys(&self, head: usize) -> Vec<F32Cell> {
        let Attention { width, keys, .. } = *self.attention;
        let mut cells = vec![F32Cell::ZERO; keys.div_ceil(TILE) * width];
        for key in 0..keys {
            let tile = &mut cells[key / TILE * width..][..width];
            for (cell, x) in tile.iter_mut().zip(self.k.row(head, key, width)) {
                cell.0[key % TILE] = *x;
            }
        }
        cells
    }

    /// A matrix of `width` outputs and `keys` inputs.
    fn packed_values(&self, head: usize) -> Vec<F32Cell> {
        let Attention { width, keys, .. } = *self.attention;
        let mut cells = vec![F32Cell::ZERO; width.div_ceil(TILE) * keys];
        for key in 0..keys {
            for (tile, values) in self.v.row(head, key, width).chunks(TILE).enumerate() {
                cells[tile * keys + key].0[..values.len()].copy_from_slice(values);
            }
        }
        cells
    }
}
