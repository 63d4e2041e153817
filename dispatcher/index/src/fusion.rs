//! Several rankings into one.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// What is added to every rank: the usual constant of reciprocal rank fusion.
const CONSTANT: f32 = 60.0;

/// Fuses rankings, each best first: what is among the best `fused` of any of them counts by the sum of `1 / (60 + rank)` over
/// those. Equal sums stay in the order in which they were first seen. Everything else stands behind, by its best rank.
///
/// Longer rankings with the same beginnings give a longer order with the same beginning, so that pages turned one after the
/// other neither repeat nor leave out anything.
pub fn reciprocal_ranks<T: Copy + Eq + Hash>(rankings: &[Vec<T>], fused: usize) -> Vec<(T, f32)> {
    let mut sums: Vec<(T, f32)> = Vec::new();
    let mut places: HashMap<T, usize> = HashMap::new();
    for ranking in rankings {
        for (rank, found) in ranking.iter().take(fused).enumerate() {
            let place = *places.entry(*found).or_insert_with(|| {
                sums.push((*found, 0.0));
                sums.len() - 1
            });
            sums[place].1 += reciprocal(rank);
        }
    }
    sums.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let mut seen: HashSet<T> = places.into_keys().collect();
    let longest = rankings.iter().map(Vec::len).max().unwrap_or(0);
    for rank in fused..longest {
        let there = rankings.iter().filter_map(|ranking| ranking.get(rank));
        sums.extend(there.filter(|found| seen.insert(**found)).map(|found| (*found, reciprocal(rank))));
    }
    sums
}

/// Of a rank that is counted from 0.
fn reciprocal(rank: usize) -> f32 {
    1.0 / (CONSTANT + 1.0 + rank as f32)
}

#[cfg(test)]
mod tests {
    use super::reciprocal_ranks;
    use std::collections::HashSet;

    #[test]
    fn who_is_high_in_both_wins() {
        let fused = reciprocal_ranks(&[vec!["a", "b", "c"], vec!["b", "d"]], 10);
        assert_eq!(fused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "a", "d", "c"]);
    }

    #[test]
    fn longer_rankings_change_nothing_before_their_ends() {
        // Two orders of a thousand, of which the second ranking has the first half.
        let one: Vec<usize> = (0..1000).map(|number| number * 389 % 1000).collect();
        let other: Vec<usize> = (0..500).map(|number| number * 617 % 1000).collect();
        let cut = |depth: usize| [&one, &other].map(|ranking| ranking[..depth.min(ranking.len())].to_vec());
        let whole = reciprocal_ranks(&cut(1000), 200);
        assert_eq!(whole.iter().map(|(found, _)| found).collect::<HashSet<_>>().len(), 1000);
        assert!(whole.is_sorted_by(|(_, one), (_, other)| one >= other), "scores fall");
        for depth in (200..1000).step_by(40) {
            let order = reciprocal_ranks(&cut(depth), 200);
            assert_eq!(order[..depth], whole[..depth], "at depth {depth}");
        }
    }
}
