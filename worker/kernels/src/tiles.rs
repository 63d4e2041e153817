//! The cells of a whole matrix, whatever their format.
use std::fmt;

use rayon::prelude::*;

use crate::{
    Format,
    cells::{Bf16Cell, Cell, F16Cell, F32Cell, Q4Cell, Q4KCell, Q8Cell, TILE},
    huge_pages,
};

/// Cells that pay for writing zeros on several threads.
const WORTH_THREADS: usize = 4096;

/// The tiles of a matrix one after the other.
pub(crate) enum Cells {
    F32(Vec<F32Cell>),
    F16(Vec<F16Cell>),
    Bf16(Vec<Bf16Cell>),
    Q8_0(Vec<Q8Cell>),
    Q4_0(Vec<Q4Cell>),
    Q4K(Vec<Q4KCell>),
}

/// An expression over the cells, whatever their type.
macro_rules! with_cells {
    ($all:expr, |$cells:ident| $body:expr) => {
        match $all {
            $crate::tiles::Cells::F32($cells) => $body,
            $crate::tiles::Cells::F16($cells) => $body,
            $crate::tiles::Cells::Bf16($cells) => $body,
            $crate::tiles::Cells::Q8_0($cells) => $body,
            $crate::tiles::Cells::Q4_0($cells) => $body,
            $crate::tiles::Cells::Q4K($cells) => $body,
        }
    };
}
pub(crate) use with_cells;

impl Cells {
    /// Weights that add nothing, for every output up to the last tile's end.
    pub(crate) fn zeros(format: Format, outputs: usize, inputs: usize) -> Self {
        match format {
            Format::F32 => Self::F32(zeros(outputs, inputs)),
            Format::F16 => Self::F16(zeros(outputs, inputs)),
            Format::Bf16 => Self::Bf16(zeros(outputs, inputs)),
            Format::Q8_0 => Self::Q8_0(zeros(outputs, inputs)),
            Format::Q4_0 => Self::Q4_0(zeros(outputs, inputs)),
            Format::Q4K => Self::Q4K(zeros(outputs, inputs)),
        }
    }
}

impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_cells!(self, |cells| write!(f, "{} cells of {}", cells.len(), format_of(cells)))
    }
}

fn zeros<C: Cell>(outputs: usize, inputs: usize) -> Vec<C> {
    let count = outputs.div_ceil(TILE) * inputs.div_ceil(C::INPUTS);
    if count < WORTH_THREADS {
        return vec![C::ZERO; count];
    }
    let mut cells = Vec::with_capacity(count);
    huge_pages::ask_for(cells.spare_capacity_mut());
    // The first write to a page takes time, most of all when a model is loaded.
    cells.par_extend(rayon::iter::repeat_n(C::ZERO, count));
    cells
}

pub(crate) fn format_of<C: Cell>(_: &[C]) -> Format {
    C::FORMAT
}
