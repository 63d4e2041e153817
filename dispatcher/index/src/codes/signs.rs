//! Sums over signs by table: for four signs at a time a table says what they add to a dot product.
//!
//! All `unsafe` code of this crate is here.

use super::LANES;

/// Largest entry of a table: two of them fit a byte.
pub(super) const LARGEST: f32 = 127.0;

/// The sums of a block's lanes. Their order depends on the kernel and is the same for all blocks.
pub(super) type Sums = [u16; LANES];

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Plain code.
    Portable,
    /// AVX2 and FMA: checked by [`Level::detect`].
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Portable
    }

    /// Runs plain code, which must be inlined, with all that the processor has.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "plain code must take on the instruction set of its caller")]
    pub(super) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match self {
            Self::Portable => work(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` has found AVX2 and FMA.
            Self::Avx2 => unsafe { avx2::run(work) },
        }
    }

    /// For each lane of `block` the sum of its entries of `table`, which has 16 for each four signs.
    pub(super) fn sums(self, block: &[u8], table: &[u8]) -> Sums {
        assert_eq!(block.len(), table.len(), "a table has 16 entries for each half row of 32 lanes");
        match self {
            Self::Portable => portable(block, table),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` has found AVX2, and the lengths were compared.
            Self::Avx2 => unsafe { avx2::sums(block, table) },
        }
    }

    /// The largest sum of any lane.
    pub(super) fn best(self, block: &[u8], table: &[u8]) -> u16 {
        assert_eq!(block.len(), table.len(), "a table has 16 entries for each half row of 32 lanes");
        match self {
            Self::Portable => portable(block, table).into_iter().max().unwrap_or(0),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { avx2::best(block, table) },
        }
    }

    /// Adds `query[d] × values[32 d + lane]` to each lane's sum.
    pub(super) fn dots(self, query: &[f32], values: &[f32]) -> [f32; LANES] {
        match self {
            Self::Portable => dots(query, values),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` has found AVX2 and FMA.
            Self::Avx2 => unsafe { avx2::dots(query, values) },
        }
    }
}

fn portable(block: &[u8], table: &[u8]) -> Sums {
    let mut sums = [0; LANES];
    for (row, table) in block.chunks_exact(LANES).zip(table.chunks_exact(32)) {
        for (sum, signs) in sums.iter_mut().zip(row) {
            *sum +=
                u16::from(table[usize::from(signs & 15)]) + u16::from(table[16 + usize::from(signs >> 4)]);
        }
    }
    sums
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "plain code must take on the instruction set of its caller")]
fn dots(query: &[f32], values: &[f32]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (factor, row) in query.iter().zip(values.as_chunks::<LANES>().0) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += factor * value;
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::wildcard_imports,
    reason = "the intrinsics of an instruction set are a language of their own"
)]
mod avx2 {
    use super::{LANES, Sums};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[target_feature(enable = "avx2")]
    #[allow(clippy::cast_ptr_alignment, reason = "the stores are unaligned ones")]
    pub(super) fn sums(block: &[u8], table: &[u8]) -> Sums {
        let (even, odd) = halves(block, table);
        let mut sums = [0; LANES];
        let at = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: 32 numbers of 16 bits are two registers; unaligned stores are asked for.
        unsafe {
            _mm256_storeu_si256(at, even);
            _mm256_storeu_si256(at.add(1), odd);
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn best(block: &[u8], table: &[u8]) -> u16 {
        let (even, odd) = halves(block, table);
        let largest = _mm256_max_epu16(even, odd);
        let largest = _mm_max_epu16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
        // There is an instruction for the smallest only.
        let smallest = _mm_minpos_epu16(_mm_xor_si128(largest, _mm_set1_epi16(-1)));
        !(_mm_extract_epi16::<0>(smallest) as u16)
    }

    /// Sums of the lanes with even and with odd numbers.
    #[target_feature(enable = "avx2")]
    fn halves(block: &[u8], table: &[u8]) -> (__m256i, __m256i) {
        let low = _mm256_set1_epi8(15);
        let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (row, table) in block.as_chunks::<LANES>().0.iter().zip(table.as_chunks::<32>().0) {
            // SAFETY: both hold 32 bytes; unaligned loads are asked for.
            let (signs, table) = unsafe {
                (_mm256_loadu_si256(row.as_ptr().cast()), _mm256_loadu_si256(table.as_ptr().cast()))
            };
            let first = _mm256_permute2x128_si256::<0x00>(table, table);
            let second = _mm256_permute2x128_si256::<0x11>(table, table);
            let one = _mm256_shuffle_epi8(first, _mm256_and_si256(signs, low));
            let other = _mm256_shuffle_epi8(second, _mm256_and_si256(_mm256_srli_epi16::<4>(signs), low));
            let both = _mm256_add_epi8(one, other);
            // The even bytes of `all` carry over into the odd ones: what is too much is taken away at the end.
            all = _mm256_add_epi16(all, both);
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(both));
        }
        (_mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd)), odd)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots(query: &[f32], values: &[f32]) -> [f32; LANES] {
        let mut sums = [_mm256_setzero_ps(); 4];
        for (factor, row) in query.iter().zip(values.as_chunks::<LANES>().0) {
            let factor = _mm256_set1_ps(*factor);
            for (sum, eight) in sums.iter_mut().zip(row.as_chunks::<8>().0) {
                // SAFETY: eight floats; an unaligned load is asked for.
                let eight = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
                *sum = _mm256_fmadd_ps(factor, eight, *sum);
            }
        }
        let mut out = [0.0; LANES];
        for (out, sum) in out.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: eight floats; an unaligned store is asked for.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{LANES, Level, portable};

    #[test]
    fn kernels_agree() {
        let mut state = 1_u32;
        let mut byte = |most: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) % (most + 1)) as u8
        };
        for rows in [1, 2, 32, 128] {
            let block: Vec<u8> = (0..rows * LANES).map(|_| byte(255)).collect();
            let table: Vec<u8> = (0..rows * 32).map(|_| byte(127)).collect();
            let level = Level::detect();
            let (mut expected, mut found) = (portable(&block, &table), level.sums(&block, &table));
            assert_eq!(level.best(&block, &table), *expected.iter().max().expect("there are lanes"));
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(expected, found);
        }
    }
}
