//! The product in tiles of bf16, a chunk of inputs at a time.
//!
//! A task expands the weights of a tile of the matrix and lets its panels pass, a few tiles one after the other; then it hands on what
//! they made of a panel together: memory is slow where every next few outputs lie on another page.
use std::{cell::Cell, ops::Range};

use super::{Ends, Operands, by_format, convert};
use crate::{
    Activation,
    cells::{Bf16Cell, Cell as _, TILE},
    inputs::{BLOCK, Bf16Input, Input},
    kernels::amx::{Accumulators, Amx, Expand, PANEL_ROWS},
    output::{Output, overwritten},
    split::{Panels, Tasks, threads},
    tiles::Cells,
};

/// Inputs of a chunk, a multiple of those of any cell: those of a tile, 16 KiB, stay in the first-level cache while panels pass.
const CHUNK: usize = 256;

/// Tiles of the matrix whose outputs are handed on together.
const TILES: usize = 8;

/// Rows between the one that is written and the one whose memory is asked for.
const AHEAD: usize = 4;

/// Panels of a task. They, and the sums, 1.4 MiB, stay in the second-level cache, which is of 2 MiB in processors with such
/// instructions.
const PANELS: usize = 12;

thread_local! {
    // A thread keeps its last buffers, so that a product need not ask for memory.
    static EXPANDED: Cell<Vec<Bf16Cell>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<Accumulators>> = const { Cell::new(Vec::new()) };
    static BETWEEN: Cell<Vec<Bf16Input>> = const { Cell::new(Vec::new()) };
}

/// What lies between two products and is written for the second alone.
pub(crate) struct Between<'a> {
    /// Outputs of the first and inputs of the second.
    pub(crate) width: usize,
    /// `(width)`.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
}

pub(super) fn multiply(amx: Amx, cells: &Cells, operands: Operands<'_>) {
    let Some(weights) = weights_of(cells) else {
        return by_format(amx.vectors(), cells, operands);
    };
    let Operands { outputs, inputs, xs, .. } = operands;
    let xs = Activations::of(amx, xs, inputs);
    let ends = Ends::new(operands.bias, operands.epilogue, operands.out, outputs);
    product(amx, weights, &xs, outputs, &ends);
    Bf16Input::spare().set(xs.values);
}

/// Two products, the first of which is written as the second reads it. `None`, with nothing written, where tiles do not multiply both.
pub(crate) fn multiply_both(
    amx: Amx,
    [first, second]: [&Cells; 2],
    between: &Between<'_>,
    operands: Operands<'_>,
) -> Option<()> {
    let (first, second) = (weights_of(first)?, weights_of(second)?);
    let Operands { outputs, inputs, xs, .. } = operands;
    let xs = Activations::of(amx, xs, inputs);
    let mut middle = Activations::empty(xs.panels, between.width, BETWEEN.take());
    product(amx, first, &xs, between.width, &Onward::new(between, &mut middle));
    Bf16Input::spare().set(xs.values);
    let ends = Ends::new(operands.bias, operands.epilogue, operands.out, outputs);
    product(amx, second, &middle, outputs, &ends);
    BETWEEN.set(middle.values);
    Some(())
}

/// Rows in panels of bf16: block by block, the rows of a panel side by side.
struct Activations {
    panels: Panels,
    rows: usize,
    inputs: usize,
    /// As many blocks as it takes, or more.
    values: Vec<Bf16Input>,
}

impl Activations {
    fn of(amx: Amx, xs: &[f32], inputs: usize) -> Self {
        let rows = xs.len() / inputs;
        // A panel takes as long as a full one.
        let panels = Panels::full(rows, PANEL_ROWS);
        let mut this = Self::empty(panels, inputs, Bf16Input::spare().take());
        let threads = threads(rows, BLOCK, inputs.div_ceil(TILE));
        let into = &mut this.values[..rows * inputs.div_ceil(BLOCK)];
        convert(xs, inputs, &panels, into, threads, |xs, panel| amx.to_panel(xs, inputs, panel));
        this
    }

    /// Of anything.
    fn empty(panels: Panels, inputs: usize, mut values: Vec<Bf16Input>) -> Self {
        let rows = panels.rows(panels.count() - 1).end;
        grow(&mut values, rows * inputs.div_ceil(BLOCK), Bf16Input::ZERO);
        Self { panels, rows, inputs, values }
    }

    /// The blocks of a panel from that input on.
    fn panel(&self, rows: &Range<usize>, from: usize) -> &[Bf16Input] {
        let blocks = self.inputs.div_ceil(BLOCK);
        &self.values[rows.start * blocks..rows.end * blocks][from / BLOCK * rows.len()..]
    }
}

/// Weights that tiles multiply.
trait Weights: Sync {
    /// Those of a tile with some of its `all` inputs; both ends are those of cells. `into` has room for [`CHUNK`] inputs.
    fn expand<'a>(
        &'a self,
        amx: Amx,
        tile: usize,
        all: usize,
        inputs: Range<usize>,
        into: &'a mut [Bf16Cell],
    ) -> &'a [Bf16Cell];

    /// The memory that holds them.
    fn memory(&self, tile: usize, all: usize, inputs: Range<usize>) -> *const [u8];
}

impl<C: Expand> Weights for Vec<C> {
    fn expand<'a>(
        &'a self,
        amx: Amx,
        tile: usize,
        all: usize,
        inputs: Range<usize>,
        into: &'a mut [Bf16Cell],
    ) -> &'a [Bf16Cell] {
        C::expand(amx, cells_of(self, tile, all, inputs), into)
    }

    fn memory(&self, tile: usize, all: usize, inputs: Range<usize>) -> *const [u8] {
        let cells = cells_of(self, tile, all, inputs);
        std::ptr::slice_from_raw_parts(cells.as_ptr().cast(), size_of_val(cells))
    }
}

fn cells_of<C: Expand>(cells: &[C], tile: usize, all: usize, inputs: Range<usize>) -> &[C] {
    let tile = &cells[tile * all.div_ceil(C::INPUTS)..];
    &tile[inputs.start / C::INPUTS..inputs.end.div_ceil(C::INPUTS)]
}

fn weights_of(cells: &Cells) -> Option<&dyn Weights> {
    match cells {
        Cells::F32(_) | Cells::F16(_) => None,
        Cells::Bf16(cells) => Some(cells),
        Cells::Q8_0(cells) => Some(cells),
        Cells::Q4_0(cells) => Some(cells),
        Cells::Q4K(cells) => Some(cells),
    }
}

/// Where sums go.
trait Destination: Sync {
    /// Takes those of a panel's rows for some tiles, one [`Accumulators`] each.
    ///
    /// # Safety
    /// Nobody else writes what these rows and tiles become meanwhile.
    unsafe fn put(&self, amx: Amx, rows: Range<usize>, tiles: Range<usize>, sums: &[Accumulators]);
}

fn product(amx: Amx, weights: &dyn Weights, xs: &Activations, outputs: usize, to: &impl Destination) {
    let (panels, inputs, tiles) = (xs.panels, xs.inputs, outputs.div_ceil(TILE));
    let threads = threads(xs.rows, inputs, tiles);
    Tasks::new(panels.count(), PANELS, tiles, TILES / 2, threads).run(threads, |some, tiles| {
        let mut registers = amx.tiles();
        let mut expanded = EXPANDED.take();
        grow(&mut expanded, CHUNK / 2, Bf16Cell::ZERO);
        let mut sums = SUMS.take();
        grow(&mut sums, some.len() * TILES, Accumulators::ZERO);
        for first in tiles.clone().step_by(TILES) {
            let group = first..(first + TILES).min(tiles.end);
            for start in (0..inputs).step_by(CHUNK) {
                let chunk = start..(start + CHUNK).min(inputs);
                for (at, tile) in group.clone().enumerate() {
                    let expanded = weights.expand(amx, tile, inputs, chunk.clone(), &mut expanded);
                    let next = if tile + 1 < tiles.end { tile + 1 } else { tile };
                    let mut ahead = Ahead::new(weights.memory(next, inputs, chunk.clone()), some.len());
                    for (panel, sums) in some.clone().zip(sums.chunks_exact_mut(TILES)) {
                        ahead.ask();
                        let rows = panels.rows(panel);
                        let xs = xs.panel(&rows, start);
                        registers.add_products(expanded, xs, rows.len(), start == 0, &mut sums[at]);
                    }
                }
            }
            for (panel, sums) in some.clone().zip(sums.chunks_exact(TILES)) {
                // SAFETY: every task has other panels or other tiles.
                unsafe { to.put(amx, panels.rows(panel), group.clone(), &sums[..group.len()]) };
            }
        }
        EXPANDED.set(expanded);
        SUMS.set(sums);
    });
}

/// Memory that is needed next, asked for bit by bit: the processor does not foresee the jump from one tile to the next.
struct Ahead {
    at: *const u8,
    rest: usize,
    step: usize,
}

impl Ahead {
    const LINE: usize = 64;

    /// All of it in so many steps.
    fn new(memory: *const [u8], steps: usize) -> Self {
        let lines = memory.len().div_ceil(Self::LINE);
        Self { at: memory.cast(), rest: lines, step: lines.div_ceil(steps) }
    }

    fn ask(&mut self) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let count = self.step.min(self.rest);
        for line in 0..count {
            // SAFETY: every processor of this architecture has the instruction, and it reads nothing, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.wrapping_add(line * Self::LINE).cast()) };
        }
        self.at = self.at.wrapping_add(count * Self::LINE);
        self.rest -= count;
    }
}

impl Destination for Ends<'_> {
    unsafe fn put(&self, amx: Amx, rows: Range<usize>, tiles: Range<usize>, sums: &[Accumulators]) {
        for (at, row) in rows.enumerate() {
            self.prefetch(row + AHEAD, tiles.clone());
            for (tile, sums) in tiles.clone().zip(sums) {
                // SAFETY: the caller's promise.
                unsafe { self.write(amx.vectors(), row, tile, &sums.0[at]) };
            }
        }
    }
}

/// The way into the next product.
struct Onward<'a> {
    between: &'a Between<'a>,
    blocks: usize,
    /// The blocks of all panels, as one row.
    out: Output<'a, Bf16Input>,
}

impl<'a> Onward<'a> {
    fn new(between: &'a Between<'a>, to: &'a mut Activations) -> Self {
        let width = to.values.len();
        let out = Output::new(overwritten(&mut to.values), width);
        Self { between, blocks: between.width.div_ceil(BLOCK), out }
    }
}

impl Destination for Onward<'_> {
    unsafe fn put(&self, amx: Amx, rows: Range<usize>, tiles: Range<usize>, sums: &[Accumulators]) {
        let Between { width, bias, activation } = *self.between;
        for (tile, sums) in tiles.zip(sums) {
            // A tile's outputs are a block's inputs.
            let columns = tile * TILE..((tile + 1) * TILE).min(width);
            let bias = bias.map_or(&[][..], |bias| &bias[columns.clone()]);
            // SAFETY: no other rows or tiles become these blocks, and by the caller's promise nobody else writes them.
            let blocks =
                unsafe { self.out.part(0, rows.start * self.blocks + tile * rows.len(), rows.len()) };
            amx.activated(&sums.0[..rows.len()], bias, activation, blocks);
        }
    }
}

/// Makes a buffer at least that long; what it holds does not matter.
fn grow<T: Clone>(buffer: &mut Vec<T>, length: usize, value: T) {
    if buffer.len() < length {
        buffer.resize(length, value);
    }
}
