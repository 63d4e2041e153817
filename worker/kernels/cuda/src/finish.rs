//! What follows a matrix product.

use crate::THREADS;
use crate::launch::{Argument, Element, Launch, Module, optional};

/// Columns of a row that a thread takes; as in `finish.cu`.
const COLUMNS: u32 = 4;

/// What is made of a product and its bias, value by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing; the output is f32.
    Nothing,
    /// The exact GELU, `x Φ(x)`; the output has the product's type, as it goes into another product.
    GeluErf,
    /// Its tanh approximation, likewise.
    GeluTanh,
    /// A residual stream in f32 is added; so is the output.
    Add {
        /// Address of `(rows, width)` values.
        residual: u64,
    },
}

/// `then(product + bias)` of `(rows, width)` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Type of the product.
    pub element: Element,
    /// Rows.
    pub rows: u32,
    /// Values of a row.
    pub width: u32,
    /// What follows.
    pub then: Then,
}

impl Finish {
    /// Type of the output.
    pub fn output(&self) -> Element {
        match self.then {
            Then::Nothing | Then::Add { .. } => Element::F32,
            Then::GeluErf | Then::GeluTanh => self.element,
        }
    }

    /// With the product, a bias of `width` values in f32, and where the output goes.
    pub fn launch(&self, product: u64, bias: Option<u64>, out: u64) -> Launch {
        let (name, residual) = match self.then {
            Then::Nothing => ("finish", 0),
            Then::GeluErf => ("finish_gelu_erf", 0),
            Then::GeluTanh => ("finish_gelu_tanh", 0),
            Then::Add { residual } => ("finish_add", residual),
        };
        Launch {
            module: Module::Finish,
            function: format!("{name}_{}", self.element.suffix()),
            grid: (self.rows, self.width.div_ceil(THREADS * COLUMNS)),
            threads: THREADS,
            shared_bytes: 0,
            arguments: vec![
                Argument::Pointer(product),
                optional(bias),
                Argument::Pointer(residual),
                Argument::Pointer(out),
                Argument::U32(self.width),
            ],
        }
    }
}
