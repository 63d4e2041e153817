//! Residual and norm of rows. Everything is f32 but what is normed, and a norm that goes into a product.

use crate::launch::{Argument, Element, Launch, Module, optional};
use crate::{SCRATCH, SHARED_LIMIT, THREADS};

/// LayerNorm of `sum = product + bias + residual`, `(rows, width)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Type of the product.
    pub element: Element,
    /// Type of the norm.
    pub output: Element,
    /// Rows.
    pub rows: u32,
    /// Values of a row.
    pub width: u32,
    /// Keeps the divisor from zero.
    pub eps: f32,
    /// `(width)`, added to each row before.
    pub bias: Option<u64>,
    /// `(rows, width)`, added before.
    pub residual: Option<u64>,
    /// `(width)`.
    pub weight: u64,
    /// `(width)`, added afterwards.
    pub shift: u64,
}

impl LayerNorm {
    /// With the product, where the sum goes if it is wanted, and where its norm goes. `None` if a row does not fit into
    /// a block's memory.
    pub fn launch(&self, product: u64, sum: Option<u64>, normed: u64) -> Option<Launch> {
        let arguments = vec![
            Argument::Pointer(product),
            optional(self.bias),
            optional(self.residual),
            Argument::Pointer(self.weight),
            Argument::Pointer(self.shift),
            optional(sum),
            Argument::Pointer(normed),
            Argument::F32(self.eps),
            Argument::U32(self.width),
        ];
        let function = format!("layer_norm_{}_{}", self.element.suffix(), self.output.suffix());
        row_by_row(function, (self.rows, self.width), arguments)
    }
}

/// `residual + RMSNorm(product + bias)`, `(rows, width)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Type of the product.
    pub element: Element,
    /// Rows.
    pub rows: u32,
    /// Values of a row.
    pub width: u32,
    /// Keeps the divisor from zero.
    pub eps: f32,
    /// `(width)`, added to each row before.
    pub bias: Option<u64>,
    /// `(width)`.
    pub weight: u64,
    /// `(rows, width)`, added afterwards.
    pub residual: Option<u64>,
}

impl RmsNorm {
    /// With the product and where the output goes. `None` if a row does not fit into a block's memory.
    pub fn launch(&self, product: u64, out: u64) -> Option<Launch> {
        let arguments = vec![
            Argument::Pointer(product),
            optional(self.bias),
            Argument::Pointer(self.weight),
            optional(self.residual),
            Argument::Pointer(out),
            Argument::F32(self.eps),
            Argument::U32(self.width),
        ];
        row_by_row(format!("rms_norm_{}", self.element.suffix()), (self.rows, self.width), arguments)
    }
}

/// A block for each row, which holds it in its memory.
fn row_by_row(function: String, (rows, width): (u32, u32), arguments: Vec<Argument>) -> Option<Launch> {
    Some(Launch {
        module: Module::Norm,
        function,
        grid: (rows, 1),
        threads: THREADS,
        shared_bytes: shared_bytes(width)?,
        arguments,
    })
}

/// Whether rows of that many values fit into the memory of a block.
pub fn norms_serve(width: usize) -> bool {
    u32::try_from(width).ok().and_then(shared_bytes).is_some()
}

fn shared_bytes(width: u32) -> Option<u32> {
    let bytes = width.checked_add(SCRATCH)?.checked_mul(4)?;
    (bytes <= SHARED_LIMIT).then_some(bytes)
}
