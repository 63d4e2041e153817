//! Several rankings into one, and near-duplicates together.

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

/// Puts each of `count` hits, best first, into the group of the first hit it is `alike` to: the groups' leaders in order,
/// with their followers.
pub fn groups(count: usize, mut alike: impl FnMut(usize, usize) -> bool) -> Vec<(usize, Vec<usize>)> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for hit in 0..count {
        match groups.iter_mut().find(|(leader, _)| alike(*leader, hit)) {
            Some((_, followers)) => followers.push(hit),
            None => groups.push((hit, Vec::new())),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::{groups, reciprocal_ranks};

    #[test]
    fn who_is_high_in_both_wins() {
        let fused = reciprocal_ranks(&[vec!["a", "b", "c"], vec!["b", "d"]]);
        assert_eq!(fused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["b", "a", "d", "c"]);
    }

    #[test]
    fn the_best_of_a_group_leads_it() {
        let grouped = groups(5, |one, other| one % 2 == other % 2);
        assert_eq!(grouped, [(0, vec![2, 4]), (1, vec![3])]);
    }
}
