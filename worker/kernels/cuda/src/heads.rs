//! Attention of many tokens at once, between its matrix products.

use crate::THREADS;
use crate::launch::{Argument, Element, Launch, Module, optional};

/// Tokens of a sequence between split and join are a multiple of this, so that rows of scores begin at multiples of 16 bytes.
const ALIGNED: u32 = 8;

/// Heads of several sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Type of the values.
    pub element: Element,
    /// Sequences.
    pub sequences: u32,
    /// Tokens of each.
    pub tokens: u32,
    /// Heads of a token.
    pub heads: u32,
    /// Values of a head.
    pub width: u32,
}

impl HeadShape {
    /// Tokens of each sequence between split and join: those behind the real ones are zeros.
    pub fn padded(&self) -> u32 {
        self.tokens.next_multiple_of(ALIGNED)
    }

    /// Fused projections `(sequences, tokens, 3, heads, width)`, their bias of `3 * heads * width` values in f32, and queries times
    /// `scale`, as queries, keys and values `(3, sequences, heads, padded, width)` at `out`. `None` if there are more tokens than a
    /// launch counts.
    pub fn split(&self, product: u64, bias: Option<u64>, scale: f32, out: u64) -> Option<Launch> {
        let mut arguments = vec![Argument::Pointer(product), optional(bias), Argument::Pointer(out)];
        arguments.push(Argument::F32(scale));
        self.launch("split_heads", (self.padded(), 3), arguments)
    }

    /// What all heads saw, `(sequences, heads, padded, width)`, as `(sequences, tokens, heads, width)` at `out`; `None` as above.
    pub fn join(&self, seen: u64, out: u64) -> Option<Launch> {
        self.launch("join_heads", (self.tokens, 1), [seen, out].map(Argument::Pointer).to_vec())
    }

    fn launch(&self, name: &str, (rows, parts): (u32, u32), mut arguments: Vec<Argument>) -> Option<Launch> {
        let rows = self.sequences.checked_mul(rows).filter(|rows| i32::try_from(*rows).is_ok())?;
        arguments.extend([self.tokens, self.padded(), self.heads, self.width].map(Argument::U32));
        Some(Launch {
            module: Module::Heads,
            function: format!("{name}_{}", self.element.suffix()),
            grid: (rows, parts),
            threads: THREADS,
            shared_bytes: 0,
            arguments,
        })
    }
}

/// Softmax of the first values of rows `(rows, width)` where they lie; the others become zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// Type of the scores.
    pub element: Element,
    /// Rows.
    pub rows: u32,
    /// Values of a row.
    pub width: u32,
    /// Those of them that are scores.
    pub valid: u32,
}

impl Softmax {
    /// With the scores, which become their softmax.
    pub fn launch(&self, scores: u64) -> Launch {
        let mut arguments = vec![Argument::Pointer(scores)];
        arguments.extend([self.rows, self.width, self.valid.min(self.width)].map(Argument::U32));
        Launch {
            module: Module::Heads,
            function: format!("softmax_{}", self.element.suffix()),
            grid: (self.rows.div_ceil(THREADS / 32), 1),
            threads: THREADS,
            shared_bytes: 0,
            arguments,
        }
    }
}
