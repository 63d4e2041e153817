//! Pillow's separable resampling in fixed point, for RGB bytes.
//!
//! Weights are computed in f64, scaled to 22 bits (32 minus 8 for the pixel minus 2 for headroom), and
//! summed in i32, so the result does not depend on the order of summation and vectorises freely.

const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Half the width of the bicubic kernel, before it is widened for shrinking.
const SUPPORT: f64 = 2.0;
/// Sums kept in registers while a block of columns is added up.
const BLOCK: usize = 32;
/// Rows resampled side by side, so that their sums do not wait for each other.
const ROWS: usize = 4;

/// For each output position: the first input position and the weights from there on.
pub(super) struct Weights {
    /// first input, and number of inputs
    bounds: Vec<(usize, usize)>,
    /// `bounds.len()` rows of `taps`
    fixed: Vec<i32>,
    taps: usize,
}

impl Weights {
    pub(super) fn bicubic(inputs: usize, outputs: usize) -> Self {
        let scale = inputs as f64 / outputs as f64;
        // when shrinking, the kernel is as wide as the inputs that fall into one output
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let taps = support.ceil() as usize * 2 + 1;
        let mut bounds = Vec::with_capacity(outputs);
        let mut fixed = vec![0; outputs * taps];
        let mut exact = vec![0.0; taps];
        for (output, row) in fixed.chunks_exact_mut(taps).enumerate() {
            let centre = (output as f64 + 0.5) * scale;
            // both casts cut towards zero and, at the lower end, below zero to zero
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(inputs);
            let count = end - first;
            let mut sum = 0.0;
            for (tap, weight) in exact[..count].iter_mut().enumerate() {
                *weight = bicubic(((tap + first) as f64 - centre + 0.5) * (1.0 / stretch));
                sum += *weight;
            }
            for (fixed, weight) in row.iter_mut().zip(&exact[..count]) {
                let scaled =
                    if sum == 0.0 { *weight } else { *weight / sum } * f64::from(1 << PRECISION_BITS);
                *fixed = if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 } as i32;
            }
            bounds.push((first, count));
        }
        Self { bounds, fixed, taps }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds
            .iter()
            .zip(self.fixed.chunks_exact(self.taps))
            .map(|(&(first, count), row)| (first, &row[..count]))
    }

    /// Weights of two neighbouring pixels as they meet them in memory: the three channels of one, the three
    /// of the other, and two lanes unused.
    fn in_pairs(&self) -> Vec<(usize, Vec<[i32; 8]>)> {
        let pair = |taps: &[i32]| {
            let (one, other) = (taps[0], taps.get(1).copied().unwrap_or(0));
            [one, one, one, other, other, other, 0, 0]
        };
        self.iter().map(|(first, taps)| (first, taps.chunks(2).map(pair).collect())).collect()
    }

    fn outputs(&self) -> usize {
        self.bounds.len()
    }
}

/// The cubic kernel with a = −0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Calls an `#[inline(always)]` pass compiled with AVX2 where the processor has it: the same safe code, only
/// with wider vectors.
macro_rules! with_widest_vectors {
    ($pass:ident($rgb:ident, $width:ident, $weights:ident)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn wide(rgb: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
                $pass(rgb, width, weights)
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the one thing that `wide` requires has just been checked.
                #[allow(unsafe_code)]
                return unsafe { wide($rgb, $width, $weights) };
            }
        }
        $pass($rgb, $width, $weights)
    }};
}

/// Resample every row of a picture `width` pixels wide.
pub(super) fn horizontal(rgb: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    with_widest_vectors!(horizontal_rows(rgb, width, weights))
}

/// Resample every column of a picture `width` pixels wide.
pub(super) fn vertical(rgb: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    with_widest_vectors!(vertical_rows(rgb, width, weights))
}

#[expect(clippy::inline_always, reason = "only then does it get its caller's vector instructions")]
#[allow(clippy::needless_range_loop, reason = "the compiler keeps the sums in registers only in this form")]
#[inline(always)]
fn horizontal_rows(rgb: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let (stride, out_stride) = (width * 3, weights.outputs() * 3);
    let weights = weights.in_pairs();
    let mut out = vec![0; rgb.len() / stride * out_stride];
    // the last pair's lanes reach beyond the row by up to one pixel and the two unused lanes
    let padded = stride + 8;
    let mut wide = vec![0i32; ROWS * padded];
    for (rows, out) in rgb.chunks(ROWS * stride).zip(out.chunks_mut(ROWS * out_stride)) {
        for (wide, row) in wide.chunks_exact_mut(padded).zip(rows.chunks_exact(stride)) {
            for (value, &byte) in wide.iter_mut().zip(row) {
                *value = i32::from(byte);
            }
        }
        for (output, (first, pairs)) in weights.iter().enumerate() {
            let mut sums = [[0; 8]; ROWS];
            let reach = first * 3..first * 3 + pairs.len() * 6 + 2;
            let inputs: [&[i32]; ROWS] = std::array::from_fn(|row| &wide[row * padded..][reach.clone()]);
            for (number, pair) in pairs.iter().enumerate() {
                // plain indices: only in this form does the compiler keep the sums in registers
                for row in 0..ROWS {
                    let values = &inputs[row][number * 6..number * 6 + 8];
                    for lane in 0..8 {
                        sums[row][lane] += values[lane] * pair[lane];
                    }
                }
            }
            // rows below the last one were summed as well, but have no place to go
            for (row, sums) in out.chunks_exact_mut(out_stride).zip(&sums) {
                let bytes = [0, 1, 2].map(|channel| to_byte(HALF + sums[channel] + sums[channel + 3]));
                row[output * 3..][..3].copy_from_slice(&bytes);
            }
        }
    }
    out
}

#[expect(clippy::inline_always, reason = "only then does it get its caller's vector instructions")]
#[inline(always)]
fn vertical_rows(rgb: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let stride = width * 3;
    let mut out = vec![0; weights.outputs() * stride];
    for (out, (first, taps)) in out.chunks_exact_mut(stride).zip(weights.iter()) {
        let rows = &rgb[first * stride..];
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        for (number, block) in blocks.iter_mut().enumerate() {
            let mut sums = [HALF; BLOCK];
            for (row, &weight) in rows.chunks_exact(stride).zip(taps) {
                let bytes: &[u8; BLOCK] = &row.as_chunks().0[number];
                for (sum, &byte) in sums.iter_mut().zip(bytes) {
                    *sum += i32::from(byte) * weight;
                }
            }
            *block = sums.map(to_byte);
        }
        let start = stride - rest.len();
        for (column, byte) in rest.iter_mut().enumerate() {
            let column = rows.chunks_exact(stride).map(|row| i32::from(row[start + column]));
            *byte = to_byte(HALF + column.zip(taps).map(|(value, weight)| value * weight).sum::<i32>());
        }
    }
    out
}
