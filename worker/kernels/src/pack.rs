//! From stored rows to packed tiles.
use rayon::prelude::*;

use crate::{
    Format, PackError, PackedMatrix,
    cells::{Cell, TILE},
    tiles::{Cells, with_cells},
};

/// Bytes that pay for packing on several threads.
const WORTH_THREADS: usize = 256 * 1024;

/// Packs a matrix from its rows as they come, so that never more of the stored bytes than a few
/// rows need be in memory.
#[derive(Debug)]
pub struct Packer {
    cells: Cells,
    outputs: usize,
    inputs: usize,
    row_bytes: usize,
    packed: usize,
}

impl PackedMatrix {
    /// Packs a matrix stored as in GGUF, row by row. To read and drop the stored bytes piece by
    /// piece, use a [`Packer`].
    ///
    /// # Errors
    /// A shape without elements, rows that are not whole blocks of the format, too few or too many
    /// bytes.
    pub fn pack(format: Format, stored: &[u8], outputs: usize, inputs: usize) -> Result<Self, PackError> {
        let mut packer = Packer::new(format, outputs, inputs)?;
        packer.push(stored)?;
        packer.finish()
    }
}

impl Packer {
    /// A packer for an `(outputs, inputs)` matrix; takes the memory of the whole packed matrix.
    ///
    /// # Errors
    /// A shape without elements, and rows that are not whole blocks of the format.
    pub fn new(format: Format, outputs: usize, inputs: usize) -> Result<Self, PackError> {
        let shape = PackError::Shape { outputs, inputs };
        if outputs == 0 || inputs == 0 {
            return Err(shape);
        }
        let row_bytes = format.row_bytes(inputs)?;
        row_bytes.checked_mul(outputs.next_multiple_of(TILE)).ok_or(shape)?;
        let cells = Cells::zeros(format, outputs, inputs);
        Ok(Self { cells, outputs, inputs, row_bytes, packed: 0 })
    }

    /// Bytes of a stored row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Rows not yet given.
    pub fn missing(&self) -> usize {
        self.outputs - self.packed
    }

    /// Packs the next rows, in the layout of GGUF.
    ///
    /// # Errors
    /// Bytes that are no whole number of rows, or more rows than are missing. Nothing is packed then.
    pub fn push(&mut self, rows: &[u8]) -> Result<(), PackError> {
        let count = rows.len() / self.row_bytes;
        if !rows.len().is_multiple_of(self.row_bytes) || count > self.missing() {
            let (found, row, missing) = (rows.len(), self.row_bytes, self.missing());
            return Err(PackError::Bytes { found, row, missing });
        }
        let (first, row_bytes, inputs) = (self.packed, self.row_bytes, self.inputs);
        with_cells!(&mut self.cells, |cells| put_rows(cells, inputs, first, rows, row_bytes));
        self.packed += count;
        Ok(())
    }

    /// The packed matrix.
    ///
    /// # Errors
    /// Rows are missing.
    pub fn finish(self) -> Result<PackedMatrix, PackError> {
        match self.missing() {
            0 => Ok(PackedMatrix::new(self.cells, self.outputs, self.inputs)),
            missing => Err(PackError::Incomplete { missing }),
        }
    }
}

/// Puts rows, of which the first is number `first` of the matrix, into their tiles.
fn put_rows<C: Cell>(cells: &mut [C], inputs: usize, first: usize, rows: &[u8], row_bytes: usize) {
    let bytes_each = C::INPUTS / C::FORMAT.block_inputs() * C::FORMAT.block_bytes();
    let count = rows.len() / row_bytes;
    let put_tile = |(tile, cells): (usize, &mut [C])| {
        // The rows of this tile that are among those given.
        let (start, end) = ((tile * TILE).max(first), (tile * TILE + TILE).min(first + count));
        for row in start..end {
            let stored = &rows[(row - first) * row_bytes..][..row_bytes];
            for (cell, stored) in cells.iter_mut().zip(stored.chunks(bytes_each)) {
                cell.put(row % TILE, stored);
            }
        }
    };
    let cells_each = inputs.div_ceil(C::INPUTS);
    let tiles = first / TILE..(first + count).div_ceil(TILE);
    let touched = &mut cells[tiles.start * cells_each..tiles.end * cells_each];
    if rows.len() < WORTH_THREADS {
        tiles.zip(touched.chunks_mut(cells_each)).for_each(put_tile);
    } else {
        tiles.into_par_iter().zip(touched.par_chunks_mut(cells_each)).for_each(put_tile);
    }
}
