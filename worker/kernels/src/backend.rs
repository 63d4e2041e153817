//! Which instructions a product uses.
use std::sync::OnceLock;

use crate::ProductError;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{amx::Amx, avx2::Avx2, avx512::Avx512, avx512_bf16::Avx512Bf16};

/// How many rows the products of a place in a network usually have.
///
/// It chooses the arithmetic, so it must follow from the place and never from the rows of one product: a row would depend on its
/// company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One for each sequence.
    Few,
    /// Dozens for each sequence.
    Many,
}

/// A set of kernels, by the instructions they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Plain Rust, which the compiler turns into whatever vectors the target has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX-512 with VNNI and BF16.
    Avx512Bf16,
    /// AVX-512 with VNNI, and tiles of bf16 (AMX).
    Amx,
}

impl Backend {
    /// Every set of kernels, from the slowest to the fastest.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        self.detect().is_ok()
    }

    /// The fastest that this processor can run, for products of a few rows and for everything else.
    pub fn best() -> Self {
        static BEST: OnceLock<Backend> = OnceLock::new();
        *BEST.get_or_init(|| {
            let is_fast = |backend: &Self| match backend {
                Self::Amx => false,
                Self::Avx512Bf16 => fast_bf16(),
                _ => true,
            };
            let best = |backend: &Self| is_fast(backend) && backend.is_available();
            Self::ALL.into_iter().rev().find(best).unwrap_or(Self::Portable)
        })
    }

    /// The fastest that this processor can run for products of so many rows.
    pub fn best_for(rows: Rows) -> Self {
        match rows {
            Rows::Many if Self::Amx.is_available() => Self::Amx,
            Rows::Few | Rows::Many => Self::best(),
        }
    }

    /// Proof that this processor can run it.
    pub(crate) fn detect(self) -> Result<Detected, ProductError> {
        let detected = match self {
            Self::Portable => Some(Detected::Portable),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().map(Detected::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().map(Detected::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Avx512Bf16::detect().map(Detected::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Amx::detect().map(Detected::Amx),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        };
        detected.ok_or(ProductError::Unavailable(self))
    }
}

/// Whether products of pairs of bf16 are faster than those of f32 after widening.
///
/// AMD's processors begin one every cycle. Intel's, which have tiles for that purpose, begin one every other cycle
/// (measured on Emerald Rapids): no more products than in f32, and activations rounded for nothing.
fn fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Kernels that this processor can run.
#[derive(Clone, Copy)]
pub(crate) enum Detected {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

/// An expression over the kernels, whichever they are.
macro_rules! with_kernels {
    ($detected:expr, |$kernels:ident| $body:expr) => {
        match $detected {
            $crate::backend::Detected::Portable => {
                let $kernels = $crate::kernels::portable::Portable;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::backend::Detected::Avx2($kernels) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::backend::Detected::Avx512($kernels) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::backend::Detected::Avx512Bf16($kernels) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::backend::Detected::Amx(amx) => {
                let $kernels = amx.vectors();
                $body
            }
        }
    };
}
pub(crate) use with_kernels;
