//! Attention in tiles of bf16: queries, keys, values and the weights of the keys are rounded, sums and softmax are in f32.
use super::{Heads, Work};
use crate::{
    cells::{Bf16Cell, Cell, TILE},
    inputs::{BLOCK, Bf16Input, Input},
    kernels::amx::{Accumulators, Amx, CELLS, PANEL_ROWS},
    output::Output,
    split::Panels,
};

pub(super) fn head(amx: Amx, work: &Work<'_>, head: usize, out: &Output<'_>) {
    let super::Attention { width, queries, keys, scale, .. } = *work.attention;
    let packed_keys = packed_keys(amx, work, head);
    let packed_values = packed_values(amx, work, head);
    let mut tiles = amx.tiles();
    let mut sums = vec![Accumulators::ZERO; keys.div_ceil(TILE)];
    let mut scaled = vec![0f32; PANEL_ROWS * width];
    let mut scores = vec![0f32; PANEL_ROWS * keys];
    let mut panel = vec![Bf16Input::ZERO; PANEL_ROWS * width.max(keys).div_ceil(BLOCK)];
    let panels = Panels::full(queries, PANEL_ROWS);
    for rows in (0..panels.count()).map(|panel| panels.rows(panel)) {
        let count = rows.len();
        for (scaled, row) in scaled.chunks_exact_mut(width).zip(rows.clone()) {
            for (scaled, x) in scaled.iter_mut().zip(work.q.row(head, row, width)) {
                *scaled = x * scale;
            }
        }
        let xs = &mut panel[..count * width.div_ceil(BLOCK)];
        amx.to_panel(&scaled[..count * width], width, xs);
        for (cells, sums) in packed_keys.chunks_exact(width.div_ceil(BLOCK) * CELLS).zip(&mut sums) {
            tiles.add_products(cells, xs, count, true, sums);
        }
        for ((at, row), scores) in rows.clone().enumerate().zip(scores.chunks_exact_mut(keys)) {
            for (scores, sums) in scores.chunks_mut(TILE).zip(&sums) {
                scores.copy_from_slice(&sums.0[at][..scores.len()]);
            }
            work.weigh(head, row, scores);
        }
        let xs = &mut panel[..count * keys.div_ceil(BLOCK)];
        amx.to_panel(&scores[..count * keys], keys, xs);
        let sums = &mut sums[0];
        for (tile, cells) in packed_values.chunks_exact(keys.div_ceil(BLOCK) * CELLS).enumerate() {
            tiles.add_products(cells, xs, count, true, sums);
            for (row, sums) in rows.clone().zip(&sums.0) {
                // SAFETY: heads have other columns, and the references are dropped before the next are made.
                unsafe { work.write(head, row, tile, sums, out) };
            }
        }
    }
}

/// A matrix of `keys` outputs and `width` inputs.
fn packed_keys(amx: Amx, work: &Work<'_>, head: usize) -> Vec<Bf16Cell> {
    let super::Attention { width, keys, .. } = *work.attention;
    let cells_each = width.div_ceil(BLOCK) * CELLS;
    let mut cells = vec![Bf16Cell::ZERO; keys.div_ceil(TILE) * cells_each];
    let mut rows = Rounded::new(width);
    for (tile, cells) in cells.chunks_exact_mut(cells_each).enumerate() {
        let count = rows.read(amx, &work.k, head, tile * TILE..keys.min((tile + 1) * TILE));
        for (blocks, cells) in rows.blocks(count).zip(cells.as_chunks_mut::<CELLS>().0) {
            for (lane, block) in blocks.iter().enumerate() {
                for (cell, pair) in cells.iter_mut().zip(&block.0) {
                    cell.0[lane] = halves(*pair);
                }
            }
        }
    }
    cells
}

/// A matrix of `width` outputs and `keys` inputs.
fn packed_values(amx: Amx, work: &Work<'_>, head: usize) -> Vec<Bf16Cell> {
    let super::Attention { width, keys, .. } = *work.attention;
    let cells_each = keys.div_ceil(BLOCK) * CELLS;
    let mut cells = vec![Bf16Cell::ZERO; width.div_ceil(TILE) * cells_each];
    let mut rows = Rounded::new(width);
    for first in (0..keys).step_by(BLOCK) {
        let count = rows.read(amx, &work.v, head, first..keys.min(first + BLOCK));
        // A block's inputs are a tile's outputs here.
        for (blocks, cells) in rows.blocks(count).zip(cells.chunks_exact_mut(cells_each)) {
            for (pair, cell) in blocks.chunks(2).zip(&mut cells[first / 2..]) {
                let second = pair.get(1).unwrap_or(&Bf16Input::ZERO);
                for ((lanes, a), b) in cell.0.as_chunks_mut::<2>().0.iter_mut().zip(&pair[0].0).zip(&second.0)
                {
                    let ([a0, a1], [b0, b1]) = (halves(*a), halves(*b));
                    *lanes = [[a0, b0], [a1, b1]];
                }
            }
        }
    }
    cells
}

/// A few rows of a head in bf16, each a row of blocks.
struct Rounded {
    width: usize,
    values: Vec<f32>,
    panel: Vec<Bf16Input>,
}

impl Rounded {
    fn new(width: usize) -> Self {
        let panel = vec![Bf16Input::ZERO; TILE * width.div_ceil(BLOCK)];
        Self { width, values: Vec::with_capacity(TILE * width), panel }
    }

    /// Takes at most [`TILE`] rows, and says how many.
    fn read(&mut self, amx: Amx, from: &Heads<'_>, head: usize, rows: std::ops::Range<usize>) -> usize {
        let (width, count) = (self.width, rows.len());
        self.values.clear();
        rows.for_each(|row| self.values.extend_from_slice(from.row(head, row, width)));
        amx.to_panel(&self.values, width, &mut self.panel[..count * width.div_ceil(BLOCK)]);
        count
    }

    /// A block of all rows after the other.
    fn blocks(&self, count: usize) -> impl Iterator<Item = &[Bf16Input]> {
        self.panel.chunks_exact(count).take(self.width.div_ceil(BLOCK))
    }
}

/// Two numbers that lie side by side.
fn halves(pair: u32) -> [u16; 2] {
    [pair as u16, (pair >> 16) as u16]
}
