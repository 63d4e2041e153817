//! Captions as a whole: BLEU and CIDEr-D over COCO-format references.
//!
//! Words are lower-case runs of letters, digits and apostrophes. The published scripts use a tokenizer of their own, which
//! splits a few words otherwise (such as "don't").

use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Longest n-gram.
const N: usize = 4;
/// Standard deviation of the length penalty of CIDEr-D.
const SIGMA: f64 = 6.0;

/// One picture's caption and what people wrote.
pub struct Pair<'a> {
    /// What the model said.
    pub said: &'a str,
    /// What people wrote.
    pub people: &'a [String],
}

/// The scores of all captions together.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct CaptionScores {
    /// BLEU-1 to BLEU-4, 0 to 1.
    pub bleu: [f64; N],
    /// CIDEr-D, about 0 to 10; 1 is as good as people agree in COCO.
    pub cider: f64,
}

type Grams = HashMap<Vec<String>, f64>;

/// Scores captions; pictures without references count for nothing.
pub fn score(pairs: &[Pair<'_>]) -> CaptionScores {
    let tokenised: Vec<(Vec<String>, Vec<Vec<String>>)> = pairs
        .iter()
        .filter(|pair| !pair.people.is_empty())
        .map(|pair| (words(pair.said), pair.people.iter().map(|text| words(text)).collect()))
        .collect();
    CaptionScores { bleu: bleu(&tokenised), cider: cider(&tokenised) }
}

fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|letter: char| !letter.is_alphanumeric() && letter != '\'');
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn grams(words: &[String], n: usize) -> Grams {
    let mut grams = Grams::new();
    for gram in words.windows(n) {
        *grams.entry(gram.to_vec()).or_default() += 1.0;
    }
    grams
}

/// Corpus BLEU: clipped precisions, the closest reference's length.
fn bleu(all: &[(Vec<String>, Vec<Vec<String>>)]) -> [f64; N] {
    let (mut matched, mut total) = ([0.0; N], [0.0; N]);
    let (mut said_length, mut reference_length) = (0_usize, 0_usize);
    for (said, people) in all {
        said_length += said.len();
        let closest = people.iter().map(Vec::len).min_by_key(|length| (length.abs_diff(said.len()), *length));
        reference_length += closest.unwrap_or(0);
        for n in 1..=N {
            let references: Vec<Grams> = people.iter().map(|text| grams(text, n)).collect();
            for (gram, count) in grams(said, n) {
                let most =
                    references.iter().filter_map(|grams| grams.get(&gram)).fold(0.0, |a, b| f64::max(a, *b));
                matched[n - 1] += f64::min(count, most);
                total[n - 1] += count;
            }
        }
    }
    let brevity = if said_length < reference_length {
        (1.0 - reference_length as f64 / (said_length.max(1)) as f64).exp()
    } else {
        1.0
    };
    let mut product = 1.0;
    std::array::from_fn(|at| {
        product *= if total[at] > 0.0 { matched[at] / total[at] } else { 0.0 };
        brevity * f64::powf(product, 1.0 / (at + 1) as f64)
    })
}

/// CIDEr-D: clipped cosines of n-grams weighed by how few pictures have them.
fn cider(all: &[(Vec<String>, Vec<Vec<String>>)]) -> f64 {
    if all.is_empty() {
        return 0.0;
    }
    let pictures = (all.len() as f64).ln();
    let per_n: f64 = (1..=N)
        .map(|n| {
            let mut with: HashMap<Vec<String>, f64> = HashMap::new();
            for (_, people) in all {
                let distinct: HashSet<Vec<String>> =
                    people.iter().flat_map(|text| grams(text, n).into_keys()).collect();
                for gram in distinct {
                    *with.entry(gram).or_default() += 1.0;
                }
            }
            let weigh = |text: &[String]| -> Grams {
                let weight =
                    |gram: &Vec<String>| pictures - with.get(gram).copied().unwrap_or(0.0).max(1.0).ln();
                grams(text, n)
                    .into_iter()
                    .map(|(gram, count)| {
                        let weight = weight(&gram);
                        (gram, count * weight)
                    })
                    .collect()
            };
            all.iter()
                .map(|(said, people)| {
                    let one = weigh(said);
                    let alike = |text: &Vec<String>| {
                        let apart = said.len() as f64 - text.len() as f64;
                        cosine(&one, &weigh(text)) * (-apart * apart / (2.0 * SIGMA * SIGMA)).exp()
                    };
                    people.iter().map(alike).sum::<f64>() / people.len() as f64
                })
                .sum::<f64>()
                / all.len() as f64
        })
        .sum();
    10.0 * per_n / N as f64
}

/// What one says beyond the other does not count.
fn cosine(said: &Grams, other: &Grams) -> f64 {
    let dot: f64 = said.iter().filter_map(|(gram, one)| other.get(gram).map(|two| one.min(*two) * two)).sum();
    let norm = |grams: &Grams| grams.values().map(|value| value * value).sum::<f64>().sqrt();
    let norms = norm(said) * norm(other);
    if norms > 0.0 { dot / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(pairs: &[(&str, &[&str])]) -> CaptionScores {
        let owned: Vec<(&str, Vec<String>)> = pairs
            .iter()
            .map(|(said, people)| (*said, people.iter().map(|text| (*text).to_owned()).collect()))
            .collect();
        score(&owned.iter().map(|(said, people)| Pair { said, people }).collect::<Vec<_>>())
    }

    #[test]
    fn the_same_words_are_worth_everything() {
        let all = scores(&[
            ("a red boat on the sea", &["A red boat, on the sea."]),
            ("two dogs run in a park", &["two dogs run in a park"]),
        ]);
        assert!(all.bleu.iter().all(|bleu| (bleu - 1.0).abs() < 1e-12));
        assert!((all.cider - 10.0).abs() < 1e-9);
    }

    #[test]
    fn repeated_words_are_clipped_and_short_captions_pay() {
        // One of seven words is in the reference twice.
        let clipped = scores(&[("the the the the the the the", &["the cat is on the mat"])]);
        assert!((clipped.bleu[0] - 2.0 / 7.0).abs() < 1e-12 && clipped.bleu[1].abs() < 1e-12);
        let short = scores(&[("the cat", &["the cat is on the mat"])]);
        assert!((short.bleu[0] - (1.0_f64 - 3.0).exp()).abs() < 1e-12);
    }

    #[test]
    fn words_that_all_pictures_have_weigh_nothing() {
        let all = scores(&[("a boat", &["a dog"]), ("a dog", &["a boat"])]);
        assert!(all.cider.abs() < 1e-12, "{}", all.cider);
        assert!(scores(&[("", &["a cat"]), ("a dog", &["a dog"])]).cider > 0.0);
    }
}
