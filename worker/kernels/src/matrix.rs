//! The packed matrix and its interface.
use std::mem::MaybeUninit;

use crate::{
    Backend, Epilogue, Format, ProductError, Rows,
    cells::{Cell, TILE},
    multiply::{self, Operands},
    output::overwritten,
    tiles::{Cells, format_of, with_cells},
};

/// An `(outputs, inputs)` matrix of weights, packed for products.
///
/// It takes the memory of its format ([`bytes`](Self::bytes)); the stored bytes are not kept.
#[derive(Debug)]
pub struct PackedMatrix {
    cells: Cells,
    outputs: usize,
    inputs: usize,
}

impl PackedMatrix {
    pub(crate) fn new(cells: Cells, outputs: usize, inputs: usize) -> Self {
        Self { cells, outputs, inputs }
    }

    /// Rows of the matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What the weights are stored as.
    pub fn format(&self) -> Format {
        with_cells!(&self.cells, |cells| format_of(cells))
    }

    /// Memory that the weights take, in bytes.
    pub fn bytes(&self) -> usize {
        with_cells!(&self.cells, |cells| size_of_val(cells.as_slice()))
    }

    /// What multiplies it where products usually have so many rows: the fastest [`Backend`] that has its format.
    pub fn backend(&self, usual: Rows) -> Backend {
        match self.format() {
            Format::F32 | Format::F16 => Backend::best(),
            Format::Bf16 | Format::Q8_0 | Format::Q4_0 | Format::Q4K => Backend::best_for(usual),
        }
    }

    /// `xs Wᵀ + bias` `(rows, outputs)` for rows `xs` `(rows, inputs)`, both row by row, on the fastest [`Backend`] for as
    /// many, and the threads of the current rayon pool.
    ///
    /// Called from outside of the pool, every product waits for one of its threads to wake: install
    /// the caller of many products in the pool.
    ///
    /// # Errors
    /// Slices whose lengths do not fit.
    pub fn product(
        &self,
        usual: Rows,
        xs: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue<'_>,
    ) -> Result<Vec<f32>, ProductError> {
        self.product_on(self.backend(usual), xs, bias, epilogue)
    }

    /// The same on a certain back end.
    pub(crate) fn product_on(
        &self,
        backend: Backend,
        xs: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue<'_>,
    ) -> Result<Vec<f32>, ProductError> {
        let rows = xs.len() / self.inputs;
        let mut product = Vec::with_capacity(rows.saturating_mul(self.outputs));
        let length = rows * self.outputs;
        let out = &mut product.spare_capacity_mut()[..length];
        self.multiply_into(backend, xs, bias, epilogue, out)?;
        // SAFETY: the product has written every value.
        unsafe { product.set_len(length) };
        Ok(product)
    }

    /// The same into `out`, on a certain back end.
    ///
    /// # Errors
    /// As above, with `out` untouched, and a back end that this processor cannot run.
    pub fn multiply_on(
        &self,
        backend: Backend,
        xs: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<(), ProductError> {
        self.multiply_into(backend, xs, bias, epilogue, overwritten(out))
    }

    /// Writes every value of `out`, or none with an error.
    fn multiply_into(
        &self,
        backend: Backend,
        xs: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue<'_>,
        out: &mut [MaybeUninit<f32>],
    ) -> Result<(), ProductError> {
        if !xs.len().is_multiple_of(self.inputs) {
            return Err(ProductError::Inputs { found: xs.len(), inputs: self.inputs });
        }
        self.check_output(xs.len() / self.inputs, bias, epilogue, out.len())?;
        let backend = backend.detect()?;
        if !out.is_empty() {
            let (outputs, inputs) = (self.outputs, self.inputs);
            let operands = Operands { outputs, inputs, xs, bias, epilogue, out };
            multiply::multiply(backend, &self.cells, operands);
        }
        Ok(())
    }

    /// Refuses what does not fit the outputs of so many rows.
    pub(crate) fn check_output(
        &self,
        rows: usize,
        bias: Option<&[f32]>,
        epilogue: Epilogue<'_>,
        found: usize,
    ) -> Result<(), ProductError> {
        let expected = rows * self.outputs;
        if found != expected {
            return Err(ProductError::Outputs { found, expected });
        }
        if let Some(bias) = bias
            && bias.len() != self.outputs
        {
            return Err(ProductError::Bias { found: bias.len(), outputs: self.outputs });
        }
        match epilogue {
            Epilogue::Add(values) if values.len() != expected => {
                Err(ProductError::Outputs { found: values.len(), expected })
            }
            _ => Ok(()),
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Writes row `index` of the matrix to `out` `(inputs)`.
    ///
    /// # Errors
    /// No such row, or another length than a row's.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Result<(), ProductError> {
        if index >= self.outputs {
            return Err(ProductError::Row { row: index, outputs: self.outputs });
        }
        if out.len() != self.inputs {
            return Err(ProductError::Outputs { found: out.len(), expected: self.inputs });
        }
        with_cells!(&self.cells, |cells| row(cells, index, out));
        Ok(())
    }
}

fn row<C: Cell>(cells: &[C], index: usize, out: &mut [f32]) {
    let each = out.len().div_ceil(C::INPUTS);
    let tile = &cells[index / TILE * each..][..each];
    for (cell, values) in tile.iter().zip(out.chunks_mut(C::INPUTS)) {
        cell.get(index % TILE, values);
    }
}
