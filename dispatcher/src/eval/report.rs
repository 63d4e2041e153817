//! What a benchmark came to, for programs and for people.

use super::captions::{self, CaptionScores, Pair};
use super::published::{Published, published};
use super::ranking::Ranking;
use super::scores::{Share, Worth, wilson, worth};
use super::sets::{Benchmark, Case, Gold, YES};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Some questions together.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Scored {
    /// Questions.
    pub questions: usize,
    /// As the reference's script counts.
    pub reference: Share,
    /// By the data set's own rule.
    pub own: Share,
}

/// A whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The set.
    pub benchmark: &'static str,
    /// The run whose rows were judged.
    pub run: String,
    /// The model's bundle.
    pub bundle: Option<String>,
    /// Pictures.
    pub pictures: usize,
    /// Questions without an answer, because the picture's row failed; they count as wrong.
    pub unanswered: usize,
    /// All questions together; none for sets of captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Scored>,
    /// By the sort of question, where the set has some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sorts: BTreeMap<String, Scored>,
    /// How well yes and no are told apart, where the set's rule asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// Captions as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionScores>,
    /// What others have published for the same set; none of it was measured here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published_by_others: Vec<Published>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// In words.
    pub text: String,
    /// The share of that answer among all that were allowed, 0 to 1; absent for free answers.
    pub probability: Option<f32>,
}

/// An answer by its case; `None` where the row failed.
pub type Answered<'a> = (&'a Case, Option<Said>);

impl Report {
    /// Judges the answers of a run.
    pub fn new(set: Benchmark, run: String, bundle: Option<String>, answers: &[Answered<'_>]) -> Self {
        let mut pictures: Vec<_> = answers.iter().map(|(case, _)| &case.picture).collect();
        pictures.sort_unstable();
        pictures.dedup();
        let (mut all, mut sorts) = (Vec::new(), BTreeMap::<String, Vec<Worth>>::new());
        let (mut pairs, mut ranked, mut unanswered) = (Vec::new(), Vec::new(), 0);
        for (case, said) in answers {
            if let Gold::Ranked(is_yes) = case.gold {
                ranked.push((is_yes, said.as_ref().and_then(likelihood_of_yes)));
                continue;
            }
            unanswered += usize::from(said.is_none());
            if let Gold::Captions(people) = &case.gold {
                let said = said.as_ref().map(|said| &*said.text).unwrap_or_default();
                pairs.push(Pair { said, people });
                continue;
            }
            let nothing = Worth { reference: 0.0, own: 0.0 };
            let worth = said.as_ref().map_or(nothing, |said| worth(&case.gold, &said.text));
            all.push(worth);
            if let Some(sort) = &case.sort {
                sorts.entry(sort.clone()).or_default().push(worth);
            }
        }
        Self {
            benchmark: set.name(),
            run,
            bundle,
            pictures: pictures.len(),
            unanswered,
            all: (!all.is_empty()).then(|| scored(&all)),
            sorts: sorts.into_iter().map(|(sort, worths)| (sort, scored(&worths))).collect(),
            ranking: Ranking::new(&ranked),
            captions: (!pairs.is_empty()).then(|| captions::score(&pairs)),
            published_by_others: published(set),
        }
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.benchmark);
        let bundle = self.bundle.as_deref().unwrap_or("whatever the workers had");
        let _ = writeln!(text, "Run `{}`, model `{bundle}`, {} pictures.", self.run, self.pictures);
        if self.unanswered > 0 {
            let _ = writeln!(text, "{} questions have no answer and count as wrong.", self.unanswered);
        }
        if let Some(all) = &self.all {
            text.push_str(
                "\nAs the reference counts: its evaluation script, bugs included. Own rule: that of the data set. In percent, with \
                 bounds of 95 % confidence.\n\n| questions | | as the reference counts | own rule |\n|---|--:|--:|--:|\n",
            );
            let rows = std::iter::once(("all", all))
                .chain(self.sorts.iter().map(|(sort, one)| (sort.as_str(), one)));
            for (sort, one) in rows {
                let (reference, own) = (percent(one.reference), percent(one.own));
                let _ = writeln!(text, "| {sort} | {} | {reference} | {own} |", one.questions);
            }
        }
        if let Some(Ranking { positives, negatives, auroc }) = &self.ranking {
            let _ = writeln!(
                text,
                "\nArea under the ROC curve, times 100: {}, of {positives} that are yes and {negatives} that are no, by the \
                 probability of yes.",
                percent(*auroc)
            );
        }
        if let Some(CaptionScores { bleu, cider }) = &self.captions {
            text.push_str("\n| measure | |\n|---|--:|\n");
            for (at, bleu) in bleu.iter().enumerate() {
                let _ = writeln!(text, "| BLEU-{} | {:.1} |", at + 1, 100.0 * bleu);
            }
            let _ = writeln!(text, "| CIDEr-D | {:.1} |", 100.0 * cider);
        }
        if !self.published_by_others.is_empty() {
            text.push_str(
                "\nPublished by others, not measured here:\n\n| model | percent | source |\n|---|--:|---|\n",
            );
            for one in &self.published_by_others {
                let _ = writeln!(text, "| {} | {:.1} | {} |", one.model, one.score, one.source);
            }
        }
        text
    }
}

fn scored(worths: &[Worth]) -> Scored {
    let share = |of: fn(&Worth) -> f64| {
        let mean = worths.iter().map(of).sum::<f64>() / worths.len().max(1) as f64;
        let (low, high) = wilson(mean, worths.len());
        Share { mean, low, high }
    };
    Scored {
        questions: worths.len(),
        reference: share(|worth| worth.reference),
        own: share(|worth| worth.own),
    }
}

/// How likely yes is, where yes and no were rated.
fn likelihood_of_yes(said: &Said) -> Option<f64> {
    let probability = f64::from(said.probability?);
    Some(if said.text == YES { probability } else { 1.0 - probability })
}

fn percent(share: Share) -> String {
    format!("{:.1} ({:.1} to {:.1})", 100.0 * share.mean, 100.0 * share.low, 100.0 * share.high)
}
