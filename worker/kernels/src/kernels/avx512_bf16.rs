//! AVX-512 with BF16: products of pairs of bf16 beside the kernels of [`avx512`](super::avx512).
use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{
    Kernels,
    avx512::{Avx512, load, load_pairs, store},
    by_rows,
};
use crate::{
    cells::{Bf16Cell, F16Cell, F32Cell, Q4Cell, Q4KCell, Q8Cell, Sums},
    finish::Finish,
    inputs::{BLOCK, Bf16Input, F32Input, ForQ4, ForQ4K, ForQ8, Input},
};

/// Proof that the processor has what [`Avx512`] needs, and AVX-512 BF16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    pub(crate) fn detect() -> Option<Self> {
        Avx512::detect().filter(|_| is_x86_feature_detected!("avx512bf16")).map(Self)
    }
}

impl Kernels for Avx512Bf16 {
    const DENSE_ROWS: usize = Avx512::DENSE_ROWS;
    const QUANTISED_ROWS: usize = Avx512::QUANTISED_ROWS;
    type Bf16 = Bf16Input;

    fn convert<X: Input>(self, row: &[f32], into: &mut [X], stride: usize) {
        self.0.convert(row, into, stride);
    }

    fn finish(self, sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]) {
        self.0.finish(sums, finish, out);
    }

    fn f32(self, cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums]) {
        self.0.f32(cells, panel, sums);
    }

    fn f16(self, cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        self.0.f16(cells, panel, sums);
    }

    fn bf16(self, cells: &[Bf16Cell], panel: &[Bf16Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6 7 8 9 10 11 12], bf16(cells, panel)) }
    }

    fn q8_0(self, cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums]) {
        self.0.q8_0(cells, panel, sums);
    }

    fn q4_0(self, cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums]) {
        self.0.q4_0(cells, panel, sums);
    }

    fn q4_k(self, cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums]) {
        self.0.q4_k(cells, panel, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn bf16<const R: usize>(cells: &[Bf16Cell], panel: &[Bf16Input], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cells, xs) in cells.chunks(BLOCK / 2).zip(panel.as_chunks::<R>().0) {
        for (i, cell) in cells.iter().enumerate() {
            let i = i % (BLOCK / 2);
            let [low, high] = load_pairs(&cell.0);
            for (acc, x) in acc.iter_mut().zip(xs) {
                let x = _mm512_set1_epi32(x.0[i] as i32);
                acc[0] = dot_pairs(acc[0], low, x);
                acc[1] = dot_pairs(acc[1], high, x);
            }
        }
    }
    store(&acc, sums);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_pairs(acc: __m512, weights: __m512i, x: __m512i) -> __m512 {
    // SAFETY: the types differ in name alone: 512 bits of which every pattern is valid.
    let (weights, x) = unsafe {
        (std::mem::transmute::<__m512i, __m512bh>(weights), std::mem::transmute::<__m512i, __m512bh>(x))
    };
    _mm512_dpbf16_ps(acc, weights, x)
}
