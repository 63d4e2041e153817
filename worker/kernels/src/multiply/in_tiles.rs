//! The product in tiles of bf16, a chunk of inputs at a time.
//!
//! A task expands the weights of a tile of the matrix and lets its panels pass, a few tiles one after the other; then it writes what
//! they made of a row side by side: memory is slow where every next few outputs lie on another page.
use std::cell::Cell;

use super::{Ends, Operands, by_format, convert};
use crate::{
    cells::{Bf16Cell, Cell as _, TILE},
    inputs::{BLOCK, Bf16Input, Input},
    kernels::amx::{Accumulators, Amx, Expand, PANEL_ROWS},
    split::{Panels, Tasks, threads},
    tiles::Cells,
};

/// Inputs of a chunk: a multiple of those of any cell.
const CHUNK: usize = 1536;

/// Tiles of the matrix whose outputs are written together.
const TILES: usize = 4;

/// Rows between the one that is written and the one whose memory is asked for.
const AHEAD: usize = 4;

/// Panels of a task. A chunk of them and of a tile, and the sums, 1.4 MiB, stay in the second-level cache, which is of 2 MiB in
/// processors with such instructions.
const PANELS: usize = 12;

thread_local! {
    // A thread keeps its last buffers, so that a product need not ask for memory.
    static EXPANDED: Cell<Vec<Bf16Cell>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<Accumulators>> = const { Cell::new(Vec::new()) };
}

pub(super) fn multiply(amx: Amx, cells: &Cells, operands: Operands<'_>) {
    match cells {
        Cells::F32(_) | Cells::F16(_) => by_format(amx.vectors(), cells, operands),
        Cells::Bf16(cells) => run(amx, cells, operands),
        Cells::Q8_0(cells) => run(amx, cells, operands),
        Cells::Q4_0(cells) => run(amx, cells, operands),
        Cells::Q4K(cells) => run(amx, cells, operands),
    }
}

fn run<C: Expand>(amx: Amx, cells: &[C], operands: Operands<'_>) {
    let Operands { outputs, inputs, xs, .. } = operands;
    let (blocks, cells_each) = (inputs.div_ceil(BLOCK), inputs.div_ceil(C::INPUTS));
    let (rows, tiles) = (xs.len() / inputs, outputs.div_ceil(TILE));
    // A panel takes as long as a full one.
    let panels = Panels::full(rows, PANEL_ROWS);
    let threads = threads(rows, inputs, tiles);

    let mut buffer = Bf16Input::spare().take();
    grow(&mut buffer, rows * blocks, Bf16Input::ZERO);
    convert(amx.vectors(), xs, inputs, &panels, &mut buffer[..rows * blocks], threads);

    let ends = Ends::new(operands.bias, operands.epilogue, operands.out, outputs);
    Tasks::new(panels.count(), PANELS, tiles, TILES, threads).run(threads, |some, tiles| {
        let mut registers = amx.tiles();
        let mut expanded = EXPANDED.take();
        grow(&mut expanded, CHUNK / 2, Bf16Cell::ZERO);
        let mut sums = SUMS.take();
        grow(&mut sums, some.len() * TILES, Accumulators::ZERO);
        for first in tiles.clone().step_by(TILES) {
            let group = first..(first + TILES).min(tiles.end);
            for start in (0..cells_each).step_by(CHUNK / C::INPUTS) {
                let end = (start + CHUNK / C::INPUTS).min(cells_each);
                for (tile, sums) in group.clone().zip(sums.chunks_exact_mut(some.len())) {
                    let weights = C::expand(amx, &cells[tile * cells_each..][start..end], &mut expanded);
                    for (panel, sums) in some.clone().zip(sums) {
                        let rows = panels.rows(panel);
                        let xs = &buffer[rows.start * blocks..rows.end * blocks];
                        let xs = &xs[start * C::INPUTS / BLOCK * rows.len()..];
                        registers.add_products(weights, xs, rows.len(), start == 0, sums);
                    }
                }
            }
            for (at, panel) in some.clone().enumerate() {
                for (row_at, row) in panels.rows(panel).enumerate() {
                    ends.prefetch(row + AHEAD, group.clone());
                    for (tile, sums) in group.clone().zip(sums.chunks_exact(some.len())) {
                        // SAFETY: every task has other panels or other tiles.
                        unsafe { ends.write(amx.vectors(), row, tile, &sums[at].0[row_at]) };
                    }
                }
            }
        }
        EXPANDED.set(expanded);
        SUMS.set(sums);
    });
    Bf16Input::spare().set(buffer);
}

/// Makes a buffer at least that long; what it holds does not matter.
fn grow<T: Clone>(buffer: &mut Vec<T>, length: usize, value: T) {
    if buffer.len() < length {
        buffer.resize(length, value);
    }
}
