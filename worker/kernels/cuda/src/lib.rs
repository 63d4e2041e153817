//! CUDA kernels of the network, and how they are launched, as data.
//!
//! candle has a kernel for every operation; these do in one launch what takes it several, where that counts: [`Finish`]
//! what follows a matrix product, [`LayerNorm`] and [`RmsNorm`] a residual and its norm, [`SlotAttention`] everything
//! between the fused projection and the output projection of the language model, [`HeadShape`] and [`Softmax`] what lies
//! between the products of the vision tower's attention, [`Likeliest`] the choice of a token. All arithmetic is in f32, whatever the type of what is read.
//!
//! A kernel is described by its sizes and the addresses of its operands; [`Launch`] is what the driver wants to know.
//! Whoever can launch kernels does: the network on a GPU, and the tests, which run the same sources on a CPU with the same
//! launches. Nothing here is unsafe; that addresses point to as many values as the sizes say is the launcher's business.

mod choice;
mod finish;
mod heads;
mod launch;
mod norm;
mod slots;

pub use choice::Likeliest;
pub use finish::{Finish, Then};
pub use heads::{HeadShape, Softmax};
pub use launch::{Argument, Element, Launch, Module};
pub use norm::{LayerNorm, RmsNorm, norms_serve};
pub use slots::{SlotAttention, SlotShape, Tokens};

/// Threads of a block that shares the work of a row.
const THREADS: u32 = 256;
/// Floats of shared memory for sums over a block; `SCRATCH` in the sources.
const SCRATCH: u32 = 32;
/// Bytes of shared memory that every GPU gives a block without being asked.
const SHARED_LIMIT: u32 = 48 << 10;
