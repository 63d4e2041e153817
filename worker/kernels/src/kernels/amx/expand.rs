//! Quantised weights as bf16.
use std::arch::x86_64::*;

use super::{Amx, CELLS};
use crate::{
    cells::{Bf16Cell, Cell, Q4Cell, Q4KCell, Q8Cell, TILE},
    kernels::avx512::{load_quads, nibbles, widen_f16, widen_u8},
};

/// Cells that become bf16, each value rounded to the nearest.
pub(crate) trait Expand: Cell {
    /// The cells' values, block by block. `into` has [`Cell::INPUTS`] / 2 cells for each.
    fn expand<'a>(amx: Amx, cells: &'a [Self], into: &'a mut [Bf16Cell]) -> &'a [Bf16Cell];
}

impl Expand for Bf16Cell {
    fn expand<'a>(_: Amx, cells: &'a [Self], _: &'a mut [Bf16Cell]) -> &'a [Bf16Cell] {
        cells
    }
}

macro_rules! expanded {
    ($cell:ident, $expand:ident) => {
        impl Expand for $cell {
            fn expand<'a>(_: Amx, cells: &'a [Self], into: &'a mut [Bf16Cell]) -> &'a [Bf16Cell] {
                let into = &mut into[..cells.len() * Self::INPUTS / 2];
                // SAFETY: an `Amx` is proof of the features.
                unsafe { $expand(cells, into) };
                into
            }
        }
    };
}

expanded!(Q8Cell, q8_0);
expanded!(Q4Cell, q4_0);
expanded!(Q4KCell, q4_k);

/// A block of both halves of a tile.
type Block = [Bf16Cell; CELLS];

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn q8_0(cells: &[Q8Cell], into: &mut [Bf16Cell]) {
    for (cell, into) in cells.iter().zip(into.as_chunks_mut::<CELLS>().0) {
        let scales = scales_of(&cell.scales);
        let offsets = scales.map(|scales| _mm512_mul_ps(scales, _mm512_set1_ps(128.0)));
        for (i, [low, high]) in cell.quants.iter().enumerate() {
            put(into, i, [load_quads(low), load_quads(high)], scales, offsets);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn q4_0(cells: &[Q4Cell], into: &mut [Bf16Cell]) {
    for (cell, into) in cells.iter().zip(into.as_chunks_mut::<CELLS>().0) {
        let scales = scales_of(&cell.scales);
        let offsets = scales.map(|scales| _mm512_mul_ps(scales, _mm512_set1_ps(8.0)));
        for i in 0..8 {
            let (low, high) = nibbles(&cell.quants, i);
            put(into, i, [low, high], scales, offsets);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn q4_k(cells: &[Q4KCell], into: &mut [Bf16Cell]) {
    let mut into = into.as_chunks_mut::<CELLS>().0.iter_mut();
    for cell in cells {
        let (scales, offsets) = (scales_of(&cell.scales), scales_of(&cell.offsets));
        for (block, into) in cell.blocks.iter().zip(into.by_ref()) {
            let (by, off) = (widen_u8(&block.scales), widen_u8(&block.offsets));
            let scales = [_mm512_mul_ps(scales[0], by[0]), _mm512_mul_ps(scales[1], by[1])];
            let offsets = [_mm512_mul_ps(offsets[0], off[0]), _mm512_mul_ps(offsets[1], off[1])];
            for i in 0..8 {
                let (low, high) = nibbles(&block.quants, i);
                put(into, i, [low, high], scales, offsets);
            }
        }
    }
}

/// Writes group `i` of four inputs of both halves of the tile: `scale * quant - offset`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn put(into: &mut Block, i: usize, quads: [__m512i; 2], scales: [__m512; 2], offsets: [__m512; 2]) {
    let [first, second] = &mut into[2 * i..2 * i + 2] else { return };
    for (half, ((quads, scale), offset)) in quads.into_iter().zip(scales).zip(offsets).enumerate() {
        let byte = _mm512_set1_epi32(0xff);
        let values = [
            _mm512_and_si512(quads, byte),
            _mm512_and_si512(_mm512_srli_epi32::<8>(quads), byte),
            _mm512_and_si512(_mm512_srli_epi32::<16>(quads), byte),
            _mm512_srli_epi32::<24>(quads),
        ];
        let values = values.map(|quants| rounded(_mm512_fmsub_ps(_mm512_cvtepi32_ps(quants), scale, offset)));
        store_pairs(first, half, values[0], values[1]);
        store_pairs(second, half, values[2], values[3]);
    }
}

/// The value to the nearest bf16 in the upper halves, ties away from zero, and something in the lower.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(values: __m512) -> __m512i {
    _mm512_add_epi32(_mm512_castps_si512(values), _mm512_set1_epi32(0x8000))
}

/// Writes pairs of the upper halves into one half of a cell.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_pairs(cell: &mut Bf16Cell, half: usize, first: __m512i, second: __m512i) {
    // Bits of the second where the mask has ones, else of the first.
    let pairs = _mm512_ternarylogic_epi32::<0xca>(
        _mm512_set1_epi32(0xffff_0000_u32 as i32),
        second,
        _mm512_srli_epi32::<16>(first),
    );
    let (low, high) = cell.0.split_at_mut(TILE / 2);
    let place = if half == 0 { low } else { high };
    // SAFETY: half a cell is as long as the vector; the store takes any alignment.
    unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), pairs) }
}

/// Scales in f32, those that are no number with bits that rounding leaves no number.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_of(halves: &[u16; TILE]) -> [__m512; 2] {
    widen_f16(halves).map(|scales| {
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(scales, scales);
        _mm512_mask_mov_ps(scales, is_nan, _mm512_set1_ps(f32::NAN))
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::half_bits::bf16_to_f32;

    /// Every value beside the plain one of [`Cell::get`].
    fn assert_expands<C: Expand>() {
        let Some(amx) = Amx::detect() else {
            eprintln!("not tested: this processor has no tiles of bf16");
            return;
        };
        let mut rng = StdRng::seed_from_u64(1);
        let block = C::FORMAT.block_bytes();
        let mut cells = vec![C::ZERO; 3];
        for (i, cell) in cells.iter_mut().enumerate() {
            for lane in 0..TILE {
                let mut stored: Vec<u8> = (0..block).map(|_| rng.random()).collect();
                // Scales and offsets: ordinary, tiny, and none.
                for at in [0, 2].into_iter().take(if block == 144 { 2 } else { 1 }) {
                    let scale = half::f16::from_f32([0.01, 1e-7, 0.0][i] * rng.random_range(0.5..2.0));
                    stored[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                cell.put(lane, &stored);
            }
        }
        let mut into = vec![Bf16Cell::ZERO; 3 * C::INPUTS / 2];
        let expanded = C::expand(amx, &cells, &mut into);
        let mut values = vec![0.0; C::INPUTS];
        for (cell, expanded) in cells.iter().zip(expanded.chunks_exact(C::INPUTS / 2)) {
            for lane in 0..TILE {
                cell.get(lane, &mut values);
                for (input, value) in values.iter().enumerate() {
                    let found = bf16_to_f32(expanded[input / 2].0[lane][input % 2]);
                    // Half a step of 8 bits; offsets are subtracted without rounding what they are subtracted from.
                    let bound = value.abs() / 256.0 + 1e-9;
                    assert!((found - value).abs() <= bound, "{} {lane} {input}: {found} {value}", C::FORMAT);
                }
            }
        }
    }

    #[test]
    fn blocks_become_their_values() {
        assert_expands::<Q8Cell>();
        assert_expands::<Q4Cell>();
        assert_expands::<Q4KCell>();
    }
}
