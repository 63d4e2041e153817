//! AVX-512 with VNNI.
//!
//! A value of [`Avx512`] is proof that the processor has what [`Avx512::detect`] looks for, and the
//! reason why the calls into this module's kernels are sound. Inside them, only loads and stores of
//! whole arrays go through a pointer.
use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{Kernels, by_rows, prefetch};
use crate::{
    cells::{Bf16Cell, F16Cell, F32Cell, Nibbles, Q4Cell, Q4KCell, Q8Cell, Sums, TILE},
    finish::Finish,
    inputs::{self, BLOCK, F32Input, ForQ4, ForQ4K, ForQ8, Input},
};

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }
}

impl Kernels for Avx512 {
    const DENSE_ROWS: usize = 12;
    const QUANTISED_ROWS: usize = 6;
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
        unsafe { by_rows!(sums, [1 2 3 4 5 6 7 8 9 10 11 12], f32(cells, panel)) }
    }

    fn f16(self, cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6 7 8 9 10 11 12], f16(cells, panel)) }
    }

    fn bf16(self, cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6 7 8 9 10 11 12], bf16(cells, panel)) }
    }

    fn q8_0(self, cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], q8_0(cells, panel)) }
    }

    fn q4_0(self, cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], q4_0(cells, panel)) }
    }

    fn q4_k(self, cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums]) {
        // SAFETY: `self` is proof of the features.
        unsafe { by_rows!(sums, [1 2 3 4 5 6], q4_k(cells, panel)) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn write(sums: &Sums, finish: Finish<'_>, out: &mut [MaybeUninit<f32>]) {
    finish.write(sums, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn convert<X: Input>(row: &[f32], into: &mut [X], stride: usize) {
    inputs::convert(row, into, stride);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f32<const R: usize>(cells: &[F32Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cells, xs) in cells.chunks(BLOCK).zip(panel.as_chunks::<R>().0) {
        for (i, cell) in cells.iter().enumerate() {
            let (low, high) = halves(&cell.0);
            add_products(&mut acc, [load_f32(low), load_f32(high)], xs, i);
        }
    }
    store(&acc, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f16<const R: usize>(cells: &[F16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cells, xs) in cells.chunks(BLOCK).zip(panel.as_chunks::<R>().0) {
        for (i, cell) in cells.iter().enumerate() {
            add_products(&mut acc, widen_f16(&cell.0), xs, i);
        }
    }
    store(&acc, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn bf16<const R: usize>(cells: &[Bf16Cell], panel: &[F32Input], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cells, xs) in cells.chunks(BLOCK / 2).zip(panel.as_chunks::<R>().0) {
        for (i, cell) in cells.iter().enumerate() {
            let [low, high] = load_pairs(&cell.0);
            add_products(&mut acc, [lower_half(low), lower_half(high)], xs, 2 * i);
            add_products(&mut acc, [upper_half(low), upper_half(high)], xs, 2 * i + 1);
        }
    }
    store(&acc, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8_0<const R: usize>(cells: &[Q8Cell], panel: &[ForQ8], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
        prefetch(&cell.scales);
        let mut integers = [[_mm512_setzero_si512(); 2]; R];
        for (integers, x) in integers.iter_mut().zip(xs) {
            *integers = [_mm512_set1_epi32(x.correction); 2];
        }
        for (i, [low, high]) in cell.quants.iter().enumerate() {
            prefetch(low);
            prefetch(high);
            let (low, high) = (load_quads(low), load_quads(high));
            for (integers, x) in integers.iter_mut().zip(xs) {
                add_quads(integers, low, high, x.quants[i]);
            }
        }
        let scales = widen_f16(&cell.scales);
        for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
            add_scaled(acc, integers, scales, x.scale);
        }
    }
    store(&acc, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4_0<const R: usize>(cells: &[Q4Cell], panel: &[ForQ4], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    for (cell, xs) in cells.iter().zip(panel.as_chunks::<R>().0) {
        prefetch(&cell.scales);
        let mut integers = [[_mm512_setzero_si512(); 2]; R];
        for (integers, x) in integers.iter_mut().zip(xs) {
            *integers = [_mm512_set1_epi32(x.correction); 2];
        }
        for i in 0..8 {
            prefetch(&cell.quants[i]);
            let (low, high) = nibbles(&cell.quants, i);
            for (integers, x) in integers.iter_mut().zip(xs) {
                add_quads(integers, low, high, x.quants[i]);
            }
        }
        let scales = widen_f16(&cell.scales);
        for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
            add_scaled(acc, integers, scales, x.scale);
        }
    }
    store(&acc, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4_k<const R: usize>(cells: &[Q4KCell], panel: &[ForQ4K], sums: &mut [Sums; R]) {
    let mut acc = load(sums);
    let mut panel = panel.as_chunks::<R>().0.iter();
    for cell in cells {
        for (block, xs) in cell.blocks.iter().zip(panel.by_ref()) {
            prefetch(&block.scales);
            let mut integers = [[_mm512_setzero_si512(); 2]; R];
            for i in 0..8 {
                prefetch(&block.quants[i]);
                let (low, high) = nibbles(&block.quants, i);
                for (integers, x) in integers.iter_mut().zip(xs) {
                    add_quads(integers, low, high, x.quants[i]);
                }
            }
            let (scales, offsets) = (widen_f16(&cell.scales), widen_f16(&cell.offsets));
            let (by, off) = (widen_u8(&block.scales), widen_u8(&block.offsets));
            let scales = [_mm512_mul_ps(scales[0], by[0]), _mm512_mul_ps(scales[1], by[1])];
            let offsets = [_mm512_mul_ps(offsets[0], off[0]), _mm512_mul_ps(offsets[1], off[1])];
            for ((acc, integers), x) in acc.iter_mut().zip(integers).zip(xs) {
                let sum = _mm512_set1_ps(x.sum);
                let offsets = [_mm512_mul_ps(offsets[0], sum), _mm512_mul_ps(offsets[1], sum)];
                let low = _mm512_fmsub_ps(_mm512_cvtepi32_ps(integers[0]), scales[0], offsets[0]);
                let high = _mm512_fmsub_ps(_mm512_cvtepi32_ps(integers[1]), scales[1], offsets[1]);
                let scale = _mm512_set1_ps(x.scale);
                *acc = [_mm512_fmadd_ps(low, scale, acc[0]), _mm512_fmadd_ps(high, scale, acc[1])];
            }
        }
    }
    store(&acc, sums);
}

/// Adds the products with input `i` of every row's block.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products<const R: usize>(
    acc: &mut [[__m512; 2]; R],
    weights: [__m512; 2],
    xs: &[F32Input; R],
    i: usize,
) {
    let i = i % BLOCK;
    for (acc, x) in acc.iter_mut().zip(xs) {
        let x = _mm512_set1_ps(x[i]);
        acc[0] = _mm512_fmadd_ps(weights[0], x, acc[0]);
        acc[1] = _mm512_fmadd_ps(weights[1], x, acc[1]);
    }
}

/// Adds the products of four inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_quads(integers: &mut [__m512i; 2], low: __m512i, high: __m512i, x: [i8; 4]) {
    let x = _mm512_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
    integers[0] = _mm512_dpbusd_epi32(integers[0], low, x);
    integers[1] = _mm512_dpbusd_epi32(integers[1], high, x);
}

/// Adds the integers times both scales, the weights' first: the scales' own product may be no number where the integers are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_scaled(acc: &mut [__m512; 2], integers: [__m512i; 2], scales: [__m512; 2], scale: f32) {
    let scale = _mm512_set1_ps(scale);
    acc[0] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(integers[0]), scales[0]), scale, acc[0]);
    acc[1] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(integers[1]), scales[1]), scale, acc[1]);
}

/// Four inputs of both halves of the tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn nibbles(quants: &Nibbles, i: usize) -> (__m512i, __m512i) {
    let bytes = load_quads(&quants[i]);
    let lower = _mm512_set1_epi8(0x0f);
    (_mm512_and_si512(bytes, lower), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), lower))
}

/// The first bf16 of each pair, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn lower_half(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
}

/// The second bf16 of each pair, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn upper_half(pairs: __m512i) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
}

/// The two halves of a tile's values.
fn halves<T>(values: &[T; TILE]) -> (&[T; 16], &[T; 16]) {
    let (low, high) = values.split_at(16);
    (low.try_into().expect("16 of 32"), high.try_into().expect("16 of 32"))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(values: &[f32; 16]) -> __m512 {
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_quads(quads: &[[u8; 4]; 16]) -> __m512i {
    // SAFETY: the array is as long as the vector; the load takes any alignment.
    unsafe { _mm512_loadu_si512(quads.as_ptr().cast()) }
}

/// The pairs of both halves of a tile.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_pairs(pairs: &[[u16; 2]; TILE]) -> [__m512i; 2] {
    let (low, high) = halves(pairs);
    // SAFETY: the arrays are as long as the vector; the load takes any alignment.
    unsafe { [_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())] }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widen_f16(values: &[u16; TILE]) -> [__m512; 2] {
    let (low, high) = halves(values);
    // SAFETY: the arrays are as long as the vector; the load takes any alignment.
    let halves =
        unsafe { [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())] };
    [_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])]
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn widen_u8(values: &[u8; TILE]) -> [__m512; 2] {
    let (low, high) = halves(values);
    // SAFETY: the arrays are as long as the vector; the load takes any alignment.
    let halves = unsafe { [_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast())] };
    [_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(halves[0])), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(halves[1]))]
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load<const R: usize>(sums: &[Sums; R]) -> [[__m512; 2]; R] {
    let mut acc = [[_mm512_setzero_ps(); 2]; R];
    for (acc, sums) in acc.iter_mut().zip(sums) {
        let (low, high) = halves(sums);
        *acc = [load_f32(low), load_f32(high)];
    }
    acc
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store<const R: usize>(acc: &[[__m512; 2]; R], sums: &mut [Sums; R]) {
    for (acc, sums) in acc.iter().zip(sums) {
        let (low, high) = sums.split_at_mut(16);
        // SAFETY: both halves are as long as the vector; the store takes any alignment.
        unsafe {
            _mm512_storeu_ps(low.as_mut_ptr(), acc[0]);
            _mm512_storeu_ps(high.as_mut_ptr(), acc[1]);
        }
    }
}
