//! Exact max-sim: how well a picture's vectors answer a query's.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Sums kept side by side, so that the compiler can use vector instructions.
const LANES: usize = 16;

/// The vectors of a query, ready to be compared with pictures.
///
/// A text is one vector, and its score is the largest dot product with any vector of the picture. A picture is as many
/// vectors as the model has queries, and its score is the mean of their largest dot products: 1 for the picture itself.
#[derive(Debug, Clone)]
pub struct Query {
    vectors: Vec<Vec<f32>>,
    dimension: usize,
}

/// Vectors that cannot be a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the query's embedding has no vectors or vectors of different lengths; this is a fault of the worker that answered"
)]
pub struct MisshapenQuery;

impl Query {
    /// Checks that all vectors have one length above 0.
    pub fn new(vectors: Vec<Vec<f32>>) -> Result<Self, MisshapenQuery> {
        let dimension = vectors.first().map_or(0, Vec::len);
        if dimension == 0 || vectors.iter().any(|vector| vector.len() != dimension) {
            return Err(MisshapenQuery);
        }
        Ok(Self { vectors, dimension })
    }

    /// The length of each vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The score of a picture, given as its vectors one after another; `None` unless they are of the query's length.
    ///
    /// `scratch` is working memory that may be used again for the next picture.
    pub fn score(&self, picture: &[f16], scratch: &mut Vec<f32>) -> Option<f32> {
        if picture.is_empty() || !picture.len().is_multiple_of(self.dimension) {
            return None;
        }
        scratch.resize(picture.len(), 0.0);
        picture.convert_to_f32_slice(scratch);
        let best = |query: &Vec<f32>| {
            scratch
                .chunks_exact(self.dimension)
                .map(|vector| dot(query, vector))
                .fold(f32::NEG_INFINITY, f32::max)
        };
        let score = self.vectors.iter().map(best).sum::<f32>() / self.vectors.len() as f32;
        score.is_finite().then_some(score)
    }
}

/// The dot product of two slices of one length.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (ones, others) = (one.chunks_exact(LANES), other.chunks_exact(LANES));
    let rest: f32 = ones.remainder().iter().zip(others.remainder()).map(|(a, b)| a * b).sum();
    for (ones, others) in ones.zip(others) {
        for lane in 0..LANES {
            sums[lane] += ones[lane] * others[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Query, dot};
    use half::f16;

    fn halves(values: &[f32]) -> Vec<f16> {
        values.iter().copied().map(f16::from_f32).collect()
    }

    #[test]
    fn a_text_takes_its_best_vector() {
        let query = Query::new(vec![vec![1.0, 0.0]]).unwrap();
        let picture = halves(&[0.25, 0.5, 0.75, 0.0, -1.0, 0.0]);
        assert_eq!(query.score(&picture, &mut Vec::new()), Some(0.75));
    }

    #[test]
    fn a_picture_is_like_itself() {
        let query = Query::new(vec![vec![1.0, 0.0], vec![0.0, 1.0]]).unwrap();
        assert_eq!(query.score(&halves(&[0.0, 1.0, 1.0, 0.0]), &mut Vec::new()), Some(1.0));
        assert_eq!(query.score(&halves(&[0.0, 1.0, 0.0, 1.0]), &mut Vec::new()), Some(0.5));
    }

    #[test]
    fn what_cannot_be_compared_has_no_score() {
        assert!(Query::new(Vec::new()).is_err());
        assert!(Query::new(vec![vec![1.0], vec![1.0, 2.0]]).is_err());
        let query = Query::new(vec![vec![1.0, 0.0]]).unwrap();
        assert_eq!(query.score(&halves(&[1.0, 0.0, 1.0]), &mut Vec::new()), None);
        assert_eq!(query.score(&[], &mut Vec::new()), None);
        assert_eq!(query.score(&halves(&[f32::NAN, 0.0]), &mut Vec::new()), None);
    }

    #[test]
    fn lanes_do_not_change_the_product() {
        let one: Vec<f32> = (0..67).map(|index| index as f32 * 0.25 - 7.0).collect();
        let other: Vec<f32> = (0..67).map(|index| 3.0 - index as f32 * 0.5).collect();
        let plain: f64 = one.iter().zip(&other).map(|(a, b)| f64::from(a * b)).sum();
        assert!((f64::from(dot(&one, &other)) - plain).abs() < 1e-2);
    }
}
