//! Matrix products with stored weights on the CPU.
//!
//! A [`PackedMatrix`] holds the one copy of a weight matrix, rearranged so that a product streams
//! through it once, in the size of its format. `y = x Wᵀ + b` is [`PackedMatrix::product`]; a row
//! of the matrix, for look-ups in a table, is [`PackedMatrix::row`].
//!
//! **A row stands alone.** The bits of an output row depend on its input row and on the matrix, not
//! on the number of rows, on the row's place among them, or on the number of threads: every sum is
//! added up in one order, over the inputs from first to last (by blocks where weights come in
//! blocks). The order, and with it the last bits, may differ between [`Backend`]s, and so between products for few and
//! for many rows ([`Rows`]).
//!
//! Arithmetic by format, always with sums in f32:
//!
//! | format | weight | activation |
//! | --- | --- | --- |
//! | f32 | as it is | f32 |
//! | f16 | widened to f32 | f32 |
//! | bf16 | as it is | rounded to bf16 where the processor multiplies bf16 fast, otherwise f32 |
//! | `Q8_0`, `Q4_0`, `Q4_K` | integer, scaled by block | rounded to 8 bits with one scale per 32 inputs |
//! | `Q8_0`, `Q4_0`, `Q4_K`, for many rows on a processor with tiles of bf16 | value, rounded to bf16 | rounded to bf16 |
//!
//! [`FeedForward`] is two of them in a row, without the values between them ever being written in f32 where both are multiplied in tiles.
//! [`Attention`] is made of the same products, in f32; [`SingleQueries`] is that of a decode step.
//!
//! An activation that is no finite number makes its whole output row NaN, or infinite where f32
//! arithmetic says so.
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(
    clippy::inline_always,
    reason = "plain code must take on the instruction set of the kernel it is called from"
)]
#![allow(
    clippy::wildcard_imports,
    reason = "the intrinsics of an instruction set are a language of their own"
)]

mod attention;
mod backend;
mod cells;
mod elementwise;
mod error;
mod feed_forward;
mod finish;
mod format;
mod formulas;
mod half_bits;
mod huge_pages;
mod inputs;
mod kernels;
mod matrix;
mod multiply;
mod output;
mod pack;
mod single_queries;
mod split;
mod tiles;
mod weighing;

pub use attention::{Attention, Heads};
pub use backend::{Backend, Rows};
pub use elementwise::{gelu_erf, gelu_tanh, layer_norm, log_sum_exp, rms_norm, softmax};
pub use error::{PackError, ProductError};
pub use feed_forward::{FeedForward, Layer};
pub use format::Format;
pub use formulas::Activation;
pub use matrix::PackedMatrix;
pub use multiply::Epilogue;
pub use pack::Packer;
pub use single_queries::{Past, SingleQueries};
