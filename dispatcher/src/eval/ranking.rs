//! How well yes and no are told apart, wherever the line between them is drawn: the area under the ROC curve.

use super::scores::{Share, Z};
use serde::Serialize;

/// Halvings of the way to a bound: more than a float has places.
const HALVINGS: usize = 60;

/// The ranking of all cases by how likely "yes" is.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub struct Ranking {
    /// Cases of which "yes" is true.
    pub positives: usize,
    /// Cases of which "no" is.
    pub negatives: usize,
    /// The chance that of one of each the positive one is ranked above, ties counting half; bounds of 95 % confidence by
    /// Newcombe (Statistics in Medicine 25, 2006, method 5), which are Wilson's for areas.
    pub auroc: Share,
}

impl Ranking {
    /// Of what is true of each case and how likely it was said to be; a case without an answer is ranked at the wrong end.
    /// `None` where all cases are of one kind: then there is nothing to tell apart.
    pub fn new(cases: &[(bool, Option<f64>)]) -> Option<Self> {
        let wrong = |is_yes| if is_yes { f64::NEG_INFINITY } else { f64::INFINITY };
        let mut ranked: Vec<(f64, bool)> =
            cases.iter().map(|(is_yes, score)| (score.unwrap_or(wrong(*is_yes)), *is_yes)).collect();
        ranked.sort_by(|one, other| one.0.total_cmp(&other.0));
        let positives = ranked.iter().filter(|(_, is_yes)| *is_yes).count();
        let negatives = ranked.len() - positives;
        if positives == 0 || negatives == 0 {
            return None;
        }
        let (mut below, mut won) = (0, 0.0);
        for tied in ranked.chunk_by(|one, other| one.0 == other.0) {
            let yes = tied.iter().filter(|(_, is_yes)| *is_yes).count();
            let no = tied.len() - yes;
            won += yes as f64 * (below as f64 + no as f64 / 2.0);
            below += no;
        }
        let mean = won / (positives as f64 * negatives as f64);
        let (low, high) = bounds(mean, positives as f64, negatives as f64);
        Some(Self { positives, negatives, auroc: Share { mean, low, high } })
    }
}

/// The areas that are just so far from `mean` as their own variance allows.
fn bounds(mean: f64, positives: f64, negatives: f64) -> (f64, f64) {
    let is_too_far = |area: f64| (mean - area).abs() > Z * variance(area, positives, negatives).sqrt();
    let between = |mut far: f64, mut near: f64| {
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(far, near);
            if is_too_far(middle) {
                far = middle;
            } else {
                near = middle;
            }
        }
        near
    };
    (between(0.0, mean), between(1.0, mean))
}

/// Hanley and McNeil's variance of an area, with both kinds of cases taken for equally many in its second term.
fn variance(area: f64, positives: f64, negatives: f64) -> f64 {
    let others = f64::midpoint(positives, negatives) - 1.0;
    let spread = (1.0 - area) / (2.0 - area) + area / (1.0 + area);
    area * (1.0 - area) * (1.0 + others * spread) / (positives * negatives)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Ranking;

    fn auroc(yes: &[Option<f64>], no: &[Option<f64>]) -> (f64, f64, f64) {
        let cases: Vec<_> =
            yes.iter().map(|score| (true, *score)).chain(no.iter().map(|score| (false, *score))).collect();
        let told = Ranking::new(&cases).unwrap();
        assert_eq!((told.positives, told.negatives), (yes.len(), no.len()));
        (told.auroc.mean, told.auroc.low, told.auroc.high)
    }

    #[test]
    fn pairs_are_counted_and_ties_by_half() {
        // Nine pairs: 0.9 and 0.8 win all of theirs, 0.4 wins one, ties one and loses one.
        let (mean, low, high) = auroc(&[Some(0.4), Some(0.9), Some(0.8)], &[Some(0.7), Some(0.1), Some(0.4)]);
        assert!((mean - 7.5 / 9.0).abs() < 1e-12);
        assert!((low - 0.357_530).abs() < 1e-6 && (high - 0.975_991).abs() < 1e-6, "{low} to {high}");
        let same = [Some(0.5); 100];
        let (mean, low, high) = auroc(&same, &same);
        assert_eq!(mean, 0.5);
        assert!((low - 0.421_010).abs() < 1e-6 && (high - 0.578_990).abs() < 1e-6, "{low} to {high}");
    }

    #[test]
    fn a_perfect_ranking_of_few_is_not_certain() {
        let (mean, low, high) = auroc(&[Some(0.9); 10], &[Some(0.1); 10]);
        assert_eq!((mean, high), (1.0, 1.0));
        assert!((low - 0.800_214).abs() < 1e-6, "{low}");
        let (mean, low, high) = auroc(&[Some(0.0); 5], &[Some(1.0); 5]);
        assert_eq!((mean, low), (0.0, 0.0));
        assert!((high - 0.357_297).abs() < 1e-6, "{high}");
    }

    #[test]
    fn what_has_no_answer_is_at_the_wrong_end() {
        assert_eq!(auroc(&[None, Some(0.2)], &[Some(0.1)]).0, 0.5);
        assert_eq!(auroc(&[Some(0.9)], &[None, Some(0.1)]).0, 0.5);
        assert_eq!(auroc(&[None], &[None]).0, 0.0);
    }

    #[test]
    fn one_kind_alone_cannot_be_ranked() {
        assert_eq!(Ranking::new(&[(true, Some(0.5)), (true, None)]), None);
        assert_eq!(Ranking::new(&[]), None);
    }
}
