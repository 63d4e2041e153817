//! AVX2 with FMA and F16C.
//!
//! A value of [`Avx2`] is proof that the processor has what [`Avx2::detect`] looks for, and the
//! reason why the calls into this module's kernels are sound. Inside them, only loads and stores of
//! whole arrays go through a pointer.
//!
//! Sixteen registers of eight lanes hold no whole tile: kernels pass over it in parts.
use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{Kernels, by_rows, prefetch};
use crate::{
    cells::{Bf16Cell, F16Cell, F32Cell, Nibbles, Q4Cell, Q4KCell, Q8Cell, Sums, TILE},
    finish::Finish,
    inputs::{self, BLOCK, F32Input, ForQ4, ForQ4K, ForQ8, Input},
};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

impl Kernels for Avx2 {
    const DENSE_ROWS: usize = 6;
    const QUANTISED_ROWS: usize = 4;
    type Bf16 = F32Input;

    fn convert<X: Input>(self, row: &[f32], into: &mut [X], stride: usize) {
        // SAFETY: `self` is proof of the features.
        unsafe { convert(row, into, stride) }
    }

    fn finish(self, sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]) {
        // SAFETY: `self` is proof of the features.
        unsafe { write(sums, finish, out) }
    }

    fn f32(self, cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], f32(cells, panel)) }
    }

    fn f16(self, cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], f16(cells, panel)) }
    }

    fn bf16(self, cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], bf16(cells, panel)) }
    }

    fn q8_0(self, cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4], q8_0(cells, panel)) }
    }

    fn q4_0(self, cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4], q4_0(cells, panel)) }
    }

    fn q4_k(self, cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4], q4_k(cells, panel)) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn write(sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]) {
    finish.write(sums, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn convert<X: Input>(row: &[f32], into: &mut [X], stride: usize) {
    inputs::convert(row, into, stride);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32<const R: usize>(cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    for part in 0..TILE / 16 {
        let mut acc = load_pair(sums, part);
        for (cells, xs) in cells.chunks(BLOCK).zip(panel.as_chunks::<R>().0) {
            for (i, cell) in cells.iter().enumerate() {
                let weights = &cell.0.as_chunks::<8>().0[2 * part..][..2];
                add_products(&mut acc, [load_f32(&weights[0]), load_f32(&weights[1])], xs, i);
            }
        }
        store_pair(&acc, sums, part);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16<const R: usize>(cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    for part in 0..TILE / 16 {
        let mut acc = load_pair(sums, part);
        for (cells, xs) in cells.chunks(BLOCK).zip(panel.as_chunks::<R>().0) {
            for (i, cell) in cells.iter().enumerate() {
                let weights = [widen_f16(&cell.0, 2 * part), widen_f16(&cell.0, 2 * part + 1)];
                add_products(&mut acc, weights, xs, i);
            }
        }
        store_pair(&acc, sums, part);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn bf16<const R: usize>(cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    for part in 0..TILE / 16 {
        let mut acc = load_pair(sums, part);
        for (cells, xs) in cells.chunks(BLOCK / 2).zip(panel.as_chunks::<R>().0) {
            for (i, cell) in cells.iter().enumerate() {
                let pairs = &cell.0.as_chunks::<8>().0[2 * part..][..2];
                let pairs = [load_pairs(&pairs[0]), load_pairs(&pairs[1])];
                let first = [_mm256_slli_epi32::<16>(pairs[0]), _mm256_slli_epi32::<16>(pairs[1])];
                add_products(
                    &mut acc,
                    [_mm256_castsi256_ps(first[0]), _mm256_castsi256_ps(first[1])],
                    xs,
                    2 * i,
                );
                let second = [_mm256_and_si256(pairs[0], upper), _mm256_and_si256(pairs[1], upper)];
                add_products(
                    &mut acc,
                    [_mm256_castsi256_ps(second[0]), _mm256_castsi256_ps(second[1])],
                    xs,
                    2 * i + 1,
                );
            }
        }
        store_pair(&acc, sums, part);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const R: usize>(cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums; R]) {
    let offset = _mm256_set1_epi8(-128);
    for part in 0..TILE / 8 {
        let mut acc = load(sums, part);
        for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
            let mut integers = [_mm256_setzero_si256(); R];
            for (i, quads) in cell.quants.iter().enumerate() {
                if part == 0 {
                    quads.iter().for_each(prefetch);
                }
                // Sums of two products of a byte with its offset would not fit 16 bits: the
                // weights' signs go to the activations.
                let weights = load_quads(&quads[part / 2], part % 2);
                let weights = _mm256_xor_si256(weights, offset);
                let magnitudes = _mm256_abs_epi8(weights);
                for (integers, x) in integers.iter_mut().zip(xs) {
                    let x = _mm256_sign_epi8(set_quad(x.quants[i]), weights);
                    *integers = add_quads(*integers, magnitudes, x);
                }
            }
            let scales = widen_f16(&cell.scales, part);
            for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
                *acc = add_scaled(*acc, integers, scales, x.scale);
            }
        }
        store(&acc, sums, part);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_0<const R: usize>(cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums; R]) {
    for part in 0..TILE / 8 {
        let mut acc = load(sums, part);
        for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
            let mut integers = [_mm256_setzero_si256(); R];
            for (integers, x) in integers.iter_mut().zip(xs) {
                *integers = _mm256_set1_epi32(x.correction);
            }
            add_nibbles(&mut integers, &cell.quants, part, |row, i| xs[row].quants[i]);
            let scales = widen_f16(&cell.scales, part);
            for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
                *acc = add_scaled(*acc, integers, scales, x.scale);
            }
        }
        store(&acc, sums, part);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const R: usize>(cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums; R]) {
    for part in 0..TILE / 8 {
        let mut acc = load(sums, part);
        let mut panel = panel.as_chunks::<R>().0.iter();
        for cell in cells {
            let (scales, offsets) = (widen_f16(&cell.scales, part), widen_f16(&cell.offsets, part));
            for (block, xs) in cell.blocks.iter().zip(panel.by_ref()) {
                let mut integers = [_mm256_setzero_si256(); R];
                add_nibbles(&mut integers, &block.quants, part, |row, i| xs[row].quants[i]);
                let scales = _mm256_mul_ps(scales, widen_u8(&block.scales, part));
                let offsets = _mm256_mul_ps(offsets, widen_u8(&block.offsets, part));
                for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
                    let offset = _mm256_mul_ps(offsets, _mm256_set1_ps(x.sum));
                    let value = _mm256_fmsub_ps(_mm256_cvtepi32_ps(integers), scales, offset);
                    *acc = _mm256_fmadd_ps(value, _mm256_set1_ps(x.scale), *acc);
                }
            }
        }
        store(&acc, sums, part);
    }
}

/// Adds the products with input `i` of every row's block.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products<const R: usize>(
    acc: &mut [[__m256; 2]; R],
    weights: [__m256; 2],
    xs: &[F32Input; R],
    i: usize,
) {
    let i = i % BLOCK;
    for (acc, x) in acc.iter_mut().zip(xs) {
        let x = _mm256_set1_ps(x[i]);
        acc[0] = _mm256_fmadd_ps(weights[0], x, acc[0]);
        acc[1] = _mm256_fmadd_ps(weights[1], x, acc[1]);
    }
}

/// Adds the products of a part of a block of 4-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_nibbles<const R: usize>(
    integers: &mut [__m256i; R],
    quants: &Nibbles,
    part: usize,
    x: impl Fn(usize, usize) -> [i8; 4],
) {
    let lower = _mm256_set1_epi8(0x0f);
    for (i, quads) in quants.iter().enumerate() {
        let bytes = load_quads(quads, part % 2);
        let bytes = if part < 2 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
        let weights = _mm256_and_si256(bytes, lower);
        for (row, integers) in integers.iter_mut().enumerate() {
            *integers = add_quads(*integers, weights, set_quad(x(row, i)));
        }
    }
}

/// Adds the products of four inputs; no sum of two of them may exceed 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_quads(integers: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(weights, x);
    _mm256_add_epi32(integers, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn set_quad(x: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)))
}

/// Adds the integers times both scales, the weights' first: the scales' own product may be no number where the integers are zero.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled(acc: __m256, integers: __m256i, scales: __m256, scale: f32) -> __m256 {
    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(integers), scales);
    _mm256_fmadd_ps(scaled, _mm256_set1_ps(scale), acc)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(values: &[f32; 8]) -> __m256 {
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_pairs(pairs: &[[u16; 2]; 8]) -> __m256i {
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) }
}

/// Half of the quads: the first or the second eight.
#[inline]
#[target_feature(enable = "avx2")]
fn load_quads(quads: &[[u8; 4]; 16], half: usize) -> __m256i {
    let quads = &quads.as_chunks::<8>().0[half];
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    unsafe { _mm256_loadu_si256(quads.as_ptr().cast()) }
}

/// Eight of a tile's values, by number.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16(values: &[u16; TILE], eighth: usize) -> __m256 {
    let values = &values.as_chunks::<8>().0[eighth];
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

/// Eight of a tile's values, by number.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_u8(values: &[u8; TILE], eighth: usize) -> __m256 {
    let values = &values.as_chunks::<8>().0[eighth];
    // SAFETY: the array is as long as the lower half of the vector, which is what is loaded.
    let values = unsafe { _mm_loadl_epi64(values.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(values))
}

/// The sums of eight outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const R: usize>(sums: &[Sums; R], eighth: usize) -> [__m256; R] {
    let mut acc = [_mm256_setzero_ps(); R];
    for (acc, sums) in acc.iter_mut().zip(sums) {
        *acc = load_f32(&sums.as_chunks::<8>().0[eighth]);
    }
    acc
}

/// The sums of sixteen outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn load_pair<const R: usize>(sums: &[Sums; R], half: usize) -> [[__m256; 2]; R] {
    let (low, high) = (load(sums, 2 * half), load(sums, 2 * half + 1));
    std::array::from_fn(|row| [low[row], high[row]])
}

/// Stores the sums of eight outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn store<const R: usize>(acc: &[__m256; R], sums: &mut [Sums; R], eighth: usize) {
    for (acc, sums) in acc.iter().zip(sums) {
        let sums = &mut sums.as_chunks_mut::<8>().0[eighth];
        // SAFETY: the array is as long as the vector; the store takes any alignment.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), *acc) }
    }
}

/// Stores the sums of sixteen outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn store_pair<const R: usize>(acc: &[[__m256; 2]; R], sums: &mut [Sums; R], half: usize) {
    for (acc, sums) in acc.iter().zip(sums) {
        for (acc, sums) in acc.iter().zip(&mut sums.as_chunks_mut::<8>().0[2 * half..]) {
            // SAFETY: the array is as long as the vector; the store takes any alignment.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), *acc) }
        }
    }
}
