//! A query against codes.

use super::encode::Encoder;
use super::signs::{LARGEST, Level, Sums};
use super::{ItemCodes, LANES, MIDDLE, Shape, WEIGHTS};
use half::f16;

/// A query, ready to be compared with codes of one shape.
///
/// Every layer estimates the same score: the mean, over the query's vectors, of the largest dot product with any vector
/// of the item.
#[derive(Debug, Clone)]
pub struct Probe {
    shape: Shape,
    level: Level,
    vectors: Vec<ProbeVector>,
    /// Typical error of the third layer's estimate, for a scale of 1.
    error: f32,
}

#[derive(Debug, Clone)]
struct ProbeVector {
    turned: Vec<f32>,
    /// 16 entries for each four values.
    table: Vec<u8>,
    /// What one step of the table is worth.
    step: f32,
    /// What sums of the table begin with.
    base: f32,
}

/// Working memory for [`Probe::all`].
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<f32>,
}

impl Probe {
    /// `query` is one or more vectors of `shape.dim` values; `None` if they are not.
    pub fn new(shape: Shape, query: &[Vec<f32>]) -> Option<Self> {
        let fits =
            |vector: &Vec<f32>| vector.len() == shape.dim && vector.iter().all(|value| value.is_finite());
        if query.is_empty() || !query.iter().all(fits) {
            return None;
        }
        let encoder = Encoder::new(shape);
        Some(Self::turned(shape, query.iter().map(|vector| encoder.turn(vector)).collect()))
    }

    /// The item itself as a query, as far as its codes tell.
    pub fn of_item(shape: Shape, item: ItemCodes<'_>) -> Self {
        let mut values = Vec::new();
        let mut vectors = Vec::new();
        for block in 0..shape.blocks() {
            decode(shape, Level::detect(), item, block, &mut values);
            let lanes = LANES.min(shape.vectors - block * LANES);
            vectors.extend((0..lanes).map(|lane| values.iter().skip(lane).step_by(LANES).copied().collect()));
        }
        Self::turned(shape, vectors)
    }

    fn turned(shape: Shape, vectors: Vec<Vec<f32>>) -> Self {
        let vectors: Vec<_> = vectors.into_iter().map(ProbeVector::new).collect();
        let squares: f32 = vectors.iter().flat_map(|vector| &vector.turned).map(|value| value * value).sum();
        // Rounding to whole steps errs by the square root of 1/12 of a step; each value of the query weighs it, and the
        // mean over the query's vectors evens it out.
        let error = (squares / 12.0).sqrt() / vectors.len() as f32;
        Self { shape, level: Level::detect(), vectors, error }
    }

    /// How many vectors the query has.
    pub fn vectors(&self) -> usize {
        self.vectors.len()
    }

    /// The arrangement of the codes it can be compared with.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Estimate from the first layer, up to a factor that is the same for all items.
    pub fn first(&self, first: &[u8]) -> f32 {
        let blocks = || first.chunks_exact(self.shape.sign_block());
        let best = |vector: &ProbeVector| {
            let largest = blocks().map(|block| self.level.best(block, &vector.table)).max().unwrap_or(0);
            f32::from(largest) * vector.step + vector.base
        };
        self.vectors.iter().map(best).sum()
    }

    /// Estimate from two layers, up to a factor that is the same for all items.
    pub fn second(&self, item: ItemCodes<'_>) -> f32 {
        let length = self.shape.sign_block();
        let best = |vector: &ProbeVector| {
            let mut best = f32::NEG_INFINITY;
            for (first, second) in item.first.chunks_exact(length).zip(item.second.chunks_exact(length)) {
                let (first, second) =
                    (self.level.sums(first, &vector.table), self.level.sums(second, &vector.table));
                best = best.max(self.level.run(|| largest(&first, &second)));
            }
            best * vector.step + (WEIGHTS[0] + WEIGHTS[1]) * vector.base
        };
        self.vectors.iter().map(best).sum()
    }

    /// Estimate from all layers, and how far it may typically be from the score.
    pub fn all(&self, item: ItemCodes<'_>, scratch: &mut Scratch) -> (f32, f32) {
        let mut best = vec![f32::NEG_INFINITY; self.vectors.len()];
        let mut largest = 0.0_f32;
        for block in 0..self.shape.blocks() {
            let scale = decode(self.shape, self.level, item, block, &mut scratch.values);
            largest = largest.max(scale);
            for (best, vector) in best.iter_mut().zip(&self.vectors) {
                let dots = self.level.dots(&vector.turned, &scratch.values);
                *best = dots.into_iter().fold(*best, f32::max);
            }
        }
        (best.iter().sum::<f32>() / best.len() as f32, largest * self.error)
    }
}

impl ProbeVector {
    fn new(turned: Vec<f32>) -> Self {
        let fours = || turned.chunks_exact(4);
        let reach = |four: &[f32]| four.iter().map(|value| value.abs()).sum::<f32>();
        let widest = fours().map(reach).fold(f32::MIN_POSITIVE, f32::max);
        let step = 2.0 * widest / LARGEST;
        let mut table = Vec::with_capacity(turned.len() * 4);
        for four in fours() {
            for signs in 0..16 {
                let signed =
                    |(bit, value): (usize, &f32)| if signs >> bit & 1 == 1 { *value } else { -value };
                let sum: f32 = four.iter().enumerate().map(signed).sum();
                table.push(((sum + reach(four)) / step).round().clamp(0.0, LARGEST) as u8);
            }
        }
        let base = -reach(&turned);
        Self { turned, table, step, base }
    }
}

/// The largest weighted sum of two layers.
#[inline(always)]
#[allow(clippy::inline_always, reason = "plain code must take on the instruction set of its caller")]
fn largest(first: &Sums, second: &Sums) -> f32 {
    let mut sums = [0.0_f32; LANES];
    for lane in 0..LANES {
        sums[lane] = WEIGHTS[0] * f32::from(first[lane]) + WEIGHTS[1] * f32::from(second[lane]);
    }
    sums.into_iter().fold(0.0, |largest, sum| if sum > largest { sum } else { largest })
}

/// One block's values, `32 × dim`, lanes side by side; also the largest step of the third layer.
fn decode(shape: Shape, level: Level, item: ItemCodes<'_>, block: usize, values: &mut Vec<f32>) -> f32 {
    let turned = shape.turned();
    values.resize(turned * LANES, 0.0);
    let signs = block * shape.sign_block()..(block + 1) * shape.sign_block();
    let (first, second) = (&item.first[signs.clone()], &item.second[signs]);
    let rest = &item.rest[block * LANES * turned / 2..][..LANES * turned / 2];
    let mut scales = [0.0; LANES];
    let stored = item.scales[block * LANES * 2..][..LANES * 2].as_chunks::<2>().0;
    for (scale, stored) in scales.iter_mut().zip(stored) {
        *scale = f16::from_le_bytes(*stored).to_f32();
    }
    level.run(|| decode_rows(shape.deviation(), [first, second, rest], &scales, values));
    scales.into_iter().fold(0.0, f32::max)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "plain code must take on the instruction set of its caller")]
fn decode_rows(deviation: f32, layers: [&[u8]; 3], scales: &[f32; LANES], values: &mut [f32]) {
    let (one, two) = (WEIGHTS[0] * deviation, WEIGHTS[1] * deviation);
    let [first, second, rest] = layers.map(|layer| layer.as_chunks::<LANES>().0);
    for (place, row) in values.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let (first, second, rest) = (&first[place / 8], &second[place / 8], &rest[place / 2]);
        let (bit, shift) = (place as u32 % 8, place as u32 % 2 * 4);
        for lane in 0..LANES {
            // Whole numbers of 32 bits: what vector instructions turn into floats.
            let sign = |signs: u8| (u32::from(signs) >> bit << 1 & 2) as i32 - 1;
            let number = (u32::from(rest[lane]) >> shift & 15) as i32;
            row[lane] = sign(first[lane]) as f32 * one
                + sign(second[lane]) as f32 * two
                + (number as f32 - MIDDLE) * scales[lane];
        }
    }
}
