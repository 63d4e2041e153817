//! From the scores of a query to the weights of its keys.
use crate::{elementwise::compiled_for_each_processor, formulas::softmax_of};

compiled_for_each_processor! {
    /// Adds the mask to the scores, of which `are_numbers` then tells whether all were finite, and takes the softmax.
    pub(crate) weigh(scores: &mut [f32], mask: Option<&[f32]>, are_numbers: &mut bool) = weigh_of
}

#[inline(always)]
pub(crate) fn weigh_of(scores: &mut [f32], mask: Option<&[f32]>, are_numbers: &mut bool) {
    // Magnitudes order like their bits, and what is not finite has the greatest.
    let mut largest = 0;
    for score in &*scores {
        largest = largest.max(score.to_bits() & 0x7fff_ffff);
    }
    *are_numbers = f32::from_bits(largest).is_finite();
    if let Some(mask) = mask {
        for (score, mask) in scores.iter_mut().zip(mask) {
            *score += mask;
        }
    }
    softmax_of(scores);
}

/// The weights of a query some of whose scores no f32 can hold, from scores in f64; such a query is rare.
#[cold]
#[inline(never)]
pub(crate) fn weigh_in_f64<'a>(
    query: &[f32],
    key: impl Fn(usize) -> &'a [f32],
    scale: f32,
    mask: Option<&[f32]>,
    weights: &mut [f32],
) {
    let score = |at: usize| {
        let products = query.iter().zip(key(at)).map(|(&q, &k)| f64::from(q) * f64::from(k));
        products.sum::<f64>() * f64::from(scale) + mask.map_or(0.0, |mask| f64::from(mask[at]))
    };
    let scores: Vec<f64> = (0..weights.len()).map(score).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
    for (weight, score) in weights.iter_mut().zip(scores) {
        *weight = ((score - most).exp() / sum) as f32;
    }
}
