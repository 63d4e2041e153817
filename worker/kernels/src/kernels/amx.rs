//! Tiles of bf16 (AMX), for many rows.
//!
//! A tile register holds 16 rows of 64 bytes, and one instruction multiplies 16 rows by 16 outputs over 32 inputs. There is
//! none for blocks of integers with scales of their own, so quantised weights are expanded to bf16 on the way, a chunk of a
//! tile of the matrix at a time, and each chunk is used for as many rows as there are. With a few rows that costs more than
//! the products of bytes do.
//!
//! A value of [`Amx`] is proof that the processor has the instructions and that the operating system keeps the tiles of
//! this process apart, and the reason why the calls into these kernels are sound.
use std::sync::OnceLock;

use super::avx512::Avx512;
use crate::inputs::BLOCK;

mod expand;
mod panel;
mod registers;
mod tile_product;

pub(crate) use expand::Expand;
pub(crate) use tile_product::{Accumulators, PANEL_ROWS};

/// Cells of bf16 to a block of inputs.
pub(crate) const CELLS: usize = BLOCK / 2;

/// Proof that the processor has what [`Avx512`] needs, and bf16 in vectors and tiles, and that this process may use them.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Avx512);

impl Amx {
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let vectors = Avx512::detect()?;
        let found = *FOUND
            .get_or_init(|| is_x86_feature_detected!("avx512bf16") && has_tiles_of_bf16() && may_use_tiles());
        found.then_some(Self(vectors))
    }

    /// The kernels for everything that tiles do not multiply.
    pub(crate) fn vectors(self) -> Avx512 {
        self.0
    }
}

/// CPUID, leaf 7: AMX-BF16 and AMX-TILE (Intel SDM volume 1, section 18.1).
fn has_tiles_of_bf16() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let leaves = std::arch::x86_64::__cpuid(0).eax;
    leaves >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks the kernel for the tiles' state in this process (Linux, Documentation/arch/x86/xstate.rst): without, their first
/// use is an illegal instruction.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}
