//! Which instructions a product uses.
use std::sync::OnceLock;

use crate::ProductError;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{avx2::Avx2, avx512::Avx512, avx512_bf16::Avx512Bf16};

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
}

impl Backend {
    /// Every set of kernels, from the slowest to the fastest.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        self.detect().is_ok()
    }

    /// The fastest that this processor can run.
    pub fn best() -> Self {
        static BEST: OnceLock<Backend> = OnceLock::new();
        *BEST.get_or_init(|| {
            let fast =
                |backend: &Self| backend.is_available() && (*backend != Self::Avx512Bf16 || fast_bf16());
            Self::ALL.into_iter().rev().find(fast).unwrap_or(Self::Portable)
        })
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
        }
    };
}
pub(crate) use with_kernels;
