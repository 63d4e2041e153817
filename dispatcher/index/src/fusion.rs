//! Several rankings into one.

use std::collections::HashMap;
use std::hash::Hash;

/// What is added to every rank: the usual constant of reciprocal rank fusion.
const CONSTANT: f32 = 60.0;

/// Fuses rankings, each best first: a place counts by the sum of `1 / (60 + rank)`. Equal sums stay in the order in which
/// they were first seen.
pub fn reciprocal_ranks<T: Copy + Eq + Hash>(rankings: &[Vec<T>]) -> Vec<(T, f32)> {
    let mut sums: Vec<(T, f32)> = Vec::new();
    let mut places: HashMap<T, usize> = HashMap::new();
    for ranking in rankings {
        for (rank, found) in ranking.iter().enumerate() {
            let place = *places.entry(*found).or_insert_with(|| {
                sums.push((*found, 0.0));
                sums.len() - 1
            });
            sums[place].1 += 1.0 / (CONSTANT + 1.0 + rank as f32);
        }
    }
    sums.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    sums
}

#[cfg(test)]
mod tests {
    use super::reciprocal_ranks;

    #[test]
    fn who_is_high_in_both_wins() {
        let fused = reciprocal_ranks(&[vec!["a", "b", "c"], vec!["b", "d"]]);
        assert_eq!(fused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "a", "d", "c"]);
    }
}
