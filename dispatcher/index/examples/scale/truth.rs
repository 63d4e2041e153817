//! Exhaustive max-sim, against which everything is compared.

use super::made::{DIM, Query};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// An item and its score.
pub(crate) type Scored = (f32, usize);

fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (ones, others) in one.as_chunks::<16>().0.iter().zip(other.as_chunks::<16>().0) {
        for lane in 0..16 {
            sums[lane] += ones[lane] * others[lane];
        }
    }
    sums.iter().sum()
}

/// The mean, over the query's vectors, of the largest product with any vector of the item.
pub(crate) fn score(query: &Query, item: &[f32]) -> f32 {
    let best = |query: &Vec<f32>| {
        item.chunks_exact(DIM).map(|vector| dot(query, vector)).fold(f32::NEG_INFINITY, f32::max)
    };
    query.iter().map(best).sum::<f32>() / query.len() as f32
}

/// The item's values as 32-bit floats.
pub(crate) fn widened(item: &[f16]) -> Vec<f32> {
    let mut wide = vec![0.0; item.len()];
    item.convert_to_f32_slice(&mut wide);
    wide
}

/// The `count` highest scores; equal ones in the order of their items.
pub(crate) fn best(mut scored: Vec<Scored>, count: usize) -> Vec<Scored> {
    scored.sort_unstable_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    scored.truncate(count);
    scored
}
