//! Two products with a function between them, as every block of a transformer has.
use crate::{Activation, Backend, Epilogue, PackedMatrix, ProductError, Rows};
#[cfg(target_arch = "x86_64")]
use crate::{
    backend::Detected,
    multiply::{
        Operands,
        in_tiles::{Between, multiply_both},
    },
};

/// A matrix and what is added to its products.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `(outputs, inputs)`.
    pub matrix: &'a PackedMatrix,
    /// `(outputs)`.
    pub bias: Option<&'a [f32]>,
}

/// `down(activation(up(x)))`. Every bit is that of the two products one after the other ([`PackedMatrix::product`]).
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<'a> {
    /// The layer that comes first.
    pub up: Layer<'a>,
    /// What happens to its outputs.
    pub activation: Activation,
    /// The layer that follows.
    pub down: Layer<'a>,
}

impl FeedForward<'_> {
    /// `(rows, outputs of down)` for rows `xs` `(rows, inputs of up)`, on the fastest [`Backend`] for as many and the threads of the
    /// current rayon pool.
    ///
    /// # Errors
    /// Layers that do not fit each other, or slices that do not fit them.
    pub fn run(&self, usual: Rows, xs: &[f32], epilogue: Epilogue<'_>) -> Result<Vec<f32>, ProductError> {
        self.run_on(Backend::best_for(usual), xs, epilogue)
    }

    /// The same on a certain back end.
    ///
    /// # Errors
    /// As above, and a back end that this processor cannot run.
    pub fn run_on(
        &self,
        backend: Backend,
        xs: &[f32],
        epilogue: Epilogue<'_>,
    ) -> Result<Vec<f32>, ProductError> {
        let Self { up, activation, down } = *self;
        let width = up.matrix.outputs();
        if down.matrix.inputs() != width {
            return Err(ProductError::Inputs { found: width, inputs: down.matrix.inputs() });
        }
        #[cfg(target_arch = "x86_64")]
        if let Detected::Amx(amx) = backend.detect()?
            && !xs.is_empty()
        {
            let (inputs, outputs) = (up.matrix.inputs(), down.matrix.outputs());
            if !xs.len().is_multiple_of(inputs) {
                return Err(ProductError::Inputs { found: xs.len(), inputs });
            }
            let rows = xs.len() / inputs;
            up.matrix.check_output(rows, up.bias, Epilogue::None, rows * width)?;
            down.matrix.check_output(rows, down.bias, epilogue, rows * outputs)?;
            let mut product = Vec::with_capacity(rows * outputs);
            let out = &mut product.spare_capacity_mut()[..rows * outputs];
            let between = Between { width, bias: up.bias, activation };
            let operands = Operands { outputs, inputs, xs, bias: down.bias, epilogue, out };
            if multiply_both(amx, [up.matrix.cells(), down.matrix.cells()], &between, operands).is_some() {
                // SAFETY: the products have written every value.
                unsafe { product.set_len(rows * outputs) };
                return Ok(product);
            }
        }
        let hidden = up.matrix.product_on(backend, xs, up.bias, Epilogue::Activate(activation))?;
        down.matrix.product_on(backend, &hidden, down.bias, epilogue)
    }
}
