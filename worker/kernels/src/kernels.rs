//! One tile times one panel, by instruction set.
//!
//! Every kernel adds up over the inputs from first to last, for every output and row on its own, so
//! that the number of rows in a panel changes nothing. Each has the plain version in [`portable`]
//! beside it.
use std::mem::MaybeUninit;

use crate::{
    cells::{Bf16Cell, F16Cell, F32Cell, Q4Cell, Q4KCell, Q8Cell, Sums},
    finish::Finish,
    inputs::{F32Input, ForQ4, ForQ4K, ForQ8, Input},
};

pub(crate) mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_bf16;

/// Rows of the largest panel of any set of kernels.
pub(crate) const MOST_ROWS: usize = 12;

/// A set of kernels. A value of the type is proof that the processor can run it.
///
/// A product takes the cells of one tile and a panel: block by block, the rows of the panel (as many
/// as there are `sums`, at least one and at most the set's limit) side by side. It adds to `sums`.
pub(crate) trait Kernels: Copy + Send + Sync {
    /// Rows of a panel for matrices that are not quantised.
    const DENSE_ROWS: usize;
    /// Rows of a panel for quantised matrices.
    const QUANTISED_ROWS: usize;
    /// Activations for bf16 weights.
    type Bf16: Input;

    /// Converts a row into every `stride`th of `into`.
    fn convert<X: Input>(self, row: &[f32], into: &mut [X], stride: usize);

    /// Writes the sums of one row.
    fn finish(self, sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]);

    fn f32(self, cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums]);
    fn f16(self, cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums]);
    fn bf16(self, cells: &[Bf16Cell], panel: &[Self::Bf16], sums: &mut [Sums]);
    fn q8_0(self, cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums]);
    fn q4_0(self, cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums]);
    fn q4_k(self, cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums]);
}

/// Asks for the line of weights that comes 3 KiB after this one: with a few rows, the processor is too busy multiplying to look that far
/// ahead itself, and memory would rest meanwhile. Asked for all at once, the lines of a cell would hold up those that are needed now.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch<T>(line: &T) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    const AHEAD: usize = 3072;
    let ahead = std::ptr::from_ref(line).cast::<i8>().wrapping_add(AHEAD);
    // SAFETY: every processor of this architecture has the instruction, and it reads nothing, wherever it points.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead) };
}

/// Calls the kernel for the number of rows, which is a constant in it.
macro_rules! by_rows {
    ($sums:ident, [$($rows:literal)*], $kernel:ident ($cells:ident, $panel:ident)) => {
        match $sums.len() {
            $($rows => if let Ok(sums) = <&mut [Sums; $rows]>::try_from(&mut *$sums) {
                $kernel::<$rows>($cells, $panel, sums);
            },)*
            rows => unreachable!("a panel of {rows} rows"),
        }
    };
}
pub(crate) use by_rows;
