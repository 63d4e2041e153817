//! The product: activations into panels, then tiles times panels on several threads.
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::{
    Activation,
    backend::{Detected, with_kernels},
    cells::{Cell, Sums, TILE},
    finish::Finish,
    inputs::{BLOCK, Input},
    kernels::Kernels,
    output::Output,
    split::{CACHED, Panels, Tasks, threads},
    tiles::Cells,
};

#[cfg(target_arch = "x86_64")]
pub(crate) mod in_tiles;

thread_local! {
    // A thread keeps its last buffer, so that a product need not ask for memory.
    static SUMS: std::cell::Cell<Vec<Sums>> = const { std::cell::Cell::new(Vec::new()) };
}

/// Operands whose lengths fit each other; there is at least one row.
pub(crate) struct Operands<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// `(rows, inputs)`.
    pub(crate) xs: &'a [f32],
    /// `(outputs)`.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) epilogue: Epilogue<'a>,
    /// `(rows, outputs)`.
    pub(crate) out: &'a mut [MaybeUninit<f32>],
}

/// What becomes of a product, bias included, before it is written.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// It is written as it is.
    None,
    /// A function of every value.
    Activate(Activation),
    /// Values `(rows, outputs)` are added, such as those of a residual stream.
    Add(&'a [f32]),
}

pub(crate) fn multiply(backend: Detected, cells: &Cells, operands: Operands<'_>) {
    #[cfg(target_arch = "x86_64")]
    if let Detected::Amx(amx) = backend {
        return in_tiles::multiply(amx, cells, operands);
    }
    with_kernels!(backend, |kernels| by_format(kernels, cells, operands));
}

fn by_format<K: Kernels>(kernels: K, cells: &Cells, operands: Operands<'_>) {
    let (dense, quantised) = (K::DENSE_ROWS, K::QUANTISED_ROWS);
    match cells {
        Cells::F32(cells) => run(kernels, cells, operands, dense, |c, x, s| kernels.f32(c, x, s)),
        Cells::F16(cells) => run(kernels, cells, operands, dense, |c, x, s| kernels.f16(c, x, s)),
        Cells::Bf16(cells) => run(kernels, cells, operands, dense, |c, x, s| kernels.bf16(c, x, s)),
        Cells::Q8_0(cells) => run(kernels, cells, operands, quantised, |c, x, s| kernels.q8_0(c, x, s)),
        Cells::Q4_0(cells) => run(kernels, cells, operands, quantised, |c, x, s| kernels.q4_0(c, x, s)),
        Cells::Q4K(cells) => run(kernels, cells, operands, quantised, |c, x, s| kernels.q4_k(c, x, s)),
    }
}

fn run<K: Kernels, C: Cell, X: Input>(
    kernels: K,
    cells: &[C],
    operands: Operands<'_>,
    most_rows: usize,
    kernel: impl Fn(&[C], &[X], &mut [Sums]) + Sync,
) {
    let Operands { outputs, inputs, xs, .. } = operands;
    let (blocks, cells_each) = (inputs.div_ceil(BLOCK), inputs.div_ceil(C::INPUTS));
    let (rows, tiles) = (xs.len() / inputs, outputs.div_ceil(TILE));
    let panels = Panels::even(rows, most_rows);
    let threads = threads(rows, inputs, tiles);

    let mut buffer = X::spare().take();
    buffer.resize(rows * blocks, X::ZERO);
    convert(xs, inputs, &panels, &mut buffer, threads, |xs, panel| {
        let rows = xs.len() / inputs;
        for (row, xs) in xs.chunks_exact(inputs).enumerate() {
            kernels.convert(xs, &mut panel[row..], rows);
        }
    });

    let ends = Ends::new(operands.bias, operands.epilogue, operands.out, outputs);
    let panel_bytes = panels.rows(0).len() * blocks * size_of::<X>();
    Tasks::new(panels.count(), CACHED / panel_bytes.max(1), tiles, 1, threads).run(threads, |some, tiles| {
        let task = panels.rows(some.start).start..panels.rows(some.end - 1).end;
        let pace = Pace::of::<C>(some.len());
        let mut sums = SUMS.take();
        for first in tiles.clone().step_by(pace.tiles) {
            let together = first..(first + pace.tiles).min(tiles.end);
            sums.clear();
            sums.resize(together.len() * task.len(), [0.0; TILE]);
            for start in (0..inputs).step_by(pace.inputs) {
                let chunk = start..(start + pace.inputs).min(inputs);
                let (from, to) = (chunk.start / BLOCK, chunk.end.div_ceil(BLOCK));
                for (tile, sums) in together.clone().zip(sums.chunks_exact_mut(task.len())) {
                    let cells = &cells[tile * cells_each..];
                    let cells = &cells[chunk.start / C::INPUTS..chunk.end.div_ceil(C::INPUTS)];
                    for panel in some.clone() {
                        let rows = panels.rows(panel);
                        let xs = &buffer[rows.start * blocks..][from * rows.len()..to * rows.len()];
                        kernel(cells, xs, &mut sums[rows.start - task.start..rows.end - task.start]);
                    }
                }
            }
            for (tile, sums) in together.zip(sums.chunks_exact(task.len())) {
                for (row, sums) in task.clone().zip(sums) {
                    // SAFETY: every task has other panels or other tiles.
                    unsafe { ends.write(kernels, row, tile, sums) };
                }
            }
        }
        SUMS.set(sums);
    });
    X::spare().set(buffer);
}

/// How a task goes through its weights.
struct Pace {
    /// Inputs that all panels pass before the next, a multiple of a cell's and a block's: their weights stay in the first-level cache meanwhile.
    inputs: usize,
    /// Tiles that take turns.
    tiles: usize,
}

impl Pace {
    fn of<C: Cell>(panels: usize) -> Self {
        // Memory is what a few rows wait for: it delivers more while two places are read by turns, each a little at a time.
        let (inputs, tiles) = if panels <= 4 { (128, 2) } else { (256, 1) };
        Self { inputs: inputs.max(C::INPUTS), tiles }
    }
}

/// What follows the sums of a product's rows.
struct Ends<'a> {
    bias: Option<&'a [f32]>,
    epilogue: Epilogue<'a>,
    out: Output<'a>,
    outputs: usize,
}

impl<'a> Ends<'a> {
    fn new(
        bias: Option<&'a [f32]>,
        epilogue: Epilogue<'a>,
        out: &'a mut [MaybeUninit<f32>],
        outputs: usize,
    ) -> Self {
        Self { bias, epilogue, out: Output::new(out, outputs), outputs }
    }

    /// Asks for the memory of a row's values of some tiles, which lie far from those of the row before: the processor cannot foresee them.
    #[cfg(target_arch = "x86_64")]
    fn prefetch(&self, row: usize, tiles: std::ops::Range<usize>) {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        for start in (tiles.start * TILE..tiles.end * TILE).step_by(16) {
            let at = row * self.outputs + start;
            // SAFETY: every processor of this architecture has the instruction, and it reads nothing, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.out.address(at).cast()) };
            if let Epilogue::Add(values) = self.epilogue {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(at).cast()) };
            }
        }
    }

    /// Writes a row's values of a tile.
    ///
    /// # Safety
    /// Nobody else writes that part of the row meanwhile.
    unsafe fn write<K: Kernels>(&self, kernels: K, row: usize, tile: usize, sums: &Sums) {
        // SAFETY: the reference is dropped at the end, and by the caller's promise nobody else has one.
        let out = unsafe { self.out.part(row, tile * TILE, TILE) };
        let columns = tile * TILE..tile * TILE + out.len();
        let bias = self.bias.map_or(&[][..], |bias| &bias[columns.clone()]);
        let (activation, added) = match self.epilogue {
            Epilogue::None => (None, &[][..]),
            Epilogue::Activate(activation) => (Some(activation), &[][..]),
            Epilogue::Add(values) => (None, &values[row * self.outputs..][columns]),
        };
        kernels.finish(sums, Finish { bias, activation, added }, out);
    }
}

/// Converts the rows into panels, each by `one`: block by block, the rows of a panel side by side.
fn convert<X: Input>(
    xs: &[f32],
    inputs: usize,
    panels: &Panels,
    into: &mut [X],
    threads: usize,
    one: impl Fn(&[f32], &mut [X]) + Sync,
) {
    let blocks = inputs.div_ceil(BLOCK);
    let [longer, shorter] = panels.parts();
    let (long_xs, short_xs) = xs.split_at(longer.0 * inputs);
    let (long_into, short_into) = into.split_at_mut(longer.0 * blocks);
    for (xs, into, rows) in [(long_xs, long_into, longer.1), (short_xs, short_into, shorter.1)] {
        if threads == 1 || panels.count() == 1 {
            xs.chunks(rows * inputs).zip(into.chunks_mut(rows * blocks)).for_each(|(xs, into)| one(xs, into));
        } else {
            xs.par_chunks(rows * inputs)
                .zip(into.par_chunks_mut(rows * blocks))
                .for_each(|(xs, into)| one(xs, into));
        }
    }
}
