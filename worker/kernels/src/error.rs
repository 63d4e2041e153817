//! What can be wrong with a matrix or with the operands of a product.
use crate::{Backend, Format};

/// Bytes that make no matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// No outputs, no inputs, or more than an address can count.
    #[error("a matrix of {outputs} x {inputs} cannot be packed")]
    Shape {
        /// Rows.
        outputs: usize,
        /// Columns.
        inputs: usize,
    },
    /// Rows are not whole blocks of the format.
    #[error("a row of {inputs} inputs is not a multiple of the {block} that {format} stores together")]
    Block {
        /// Format asked for.
        format: Format,
        /// Columns.
        inputs: usize,
        /// Inputs in a block.
        block: usize,
    },
    /// Bytes that are no whole number of rows, or more rows than the matrix has.
    #[error("{found} bytes are not rows of {row} bytes, of which {missing} are missing")]
    Bytes {
        /// Bytes given.
        found: usize,
        /// Bytes of a row.
        row: usize,
        /// Rows not yet given.
        missing: usize,
    },
    /// The matrix was finished before all its rows were there.
    #[error("{missing} rows of the matrix are missing")]
    Incomplete {
        /// Rows not given.
        missing: usize,
    },
}

/// Operands that do not fit the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProductError {
    /// The input is no whole number of rows.
    #[error("{found} values are not rows of {inputs}")]
    Inputs {
        /// Values given.
        found: usize,
        /// Inputs of the matrix.
        inputs: usize,
    },
    /// The output has another size than the product.
    #[error("the product has {expected} values, the output takes {found}")]
    Outputs {
        /// Length of the output.
        found: usize,
        /// Rows times outputs.
        expected: usize,
    },
    /// The bias has another length than an output row.
    #[error("a bias of {found} values for {outputs} outputs")]
    Bias {
        /// Length of the bias.
        found: usize,
        /// Outputs of the matrix.
        outputs: usize,
    },
    /// An operand of attention that ends before its last row.
    #[error("{found} values do not hold {heads} heads of {rows} rows of {width} values, as they are spaced")]
    Heads {
        /// Values given.
        found: usize,
        /// Heads asked for.
        heads: usize,
        /// Rows of a head.
        rows: usize,
        /// Values of a row.
        width: usize,
    },
    /// There is no such row.
    #[error("row {row} of a matrix with {outputs}")]
    Row {
        /// Row asked for.
        row: usize,
        /// Rows of the matrix.
        outputs: usize,
    },
    /// This processor lacks what the back end needs.
    #[error("this processor cannot run the {0:?} kernels")]
    Unavailable(Backend),
}
