//! Scores that others have published, for comparison.

use super::sets::Benchmark;
use serde::Serialize;

/// A score that someone else has published.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub struct Published {
    /// The model.
    pub model: &'static str,
    /// In percent.
    pub score: f64,
    /// Where it stands.
    pub source: &'static str,
}

/// The survey that quotes the models' own papers.
const SURVEY: &str =
    "Zhang et al., MM-LLMs: Recent Advances in MultiModal Large Language Models, arXiv:2401.13601, table 2";
/// Known from memory only.
const ARTICLE: &str = "Yuan et al., TinyGPT-V, arXiv:2312.16862, quoted from memory and not checked";

/// What is known of a set: 13-billion-parameter versions of the others. LLaVA-1.5 has seen GQA's training pictures.
pub fn published(set: Benchmark) -> Vec<Published> {
    let (first, later, others): (f64, f64, &[(&'static str, f64)]) = match set {
        Benchmark::Gqa => (
            33.6,
            38.9,
            &[
                ("BLIP-2", 44.7),
                ("InstructBLIP", 49.5),
                ("LLaVA-1.5", 63.3),
                ("MiniGPT-4", 30.8),
                ("LLaVA", 41.3),
            ],
        ),
        Benchmark::Vsr => {
            (53.2, 54.7, &[("BLIP-2", 50.9), ("InstructBLIP", 52.1), ("MiniGPT-4", 41.6), ("LLaVA", 51.2)])
        }
        Benchmark::Iconvqa => {
            (43.3, 44.7, &[("BLIP-2", 40.6), ("InstructBLIP", 44.8), ("MiniGPT-4", 37.6), ("LLaVA", 43.0)])
        }
        Benchmark::Vizwiz => (24.8, 37.8, &[("BLIP-2", 19.6), ("InstructBLIP", 33.4), ("LLaVA-1.5", 53.6)]),
        Benchmark::Hm => (53.2, 54.0, &[("BLIP-2", 53.7), ("InstructBLIP", 57.5)]),
        Benchmark::Coco | Benchmark::Demo => return Vec::new(),
    };
    let article = [("TinyGPT-V, first version", first), ("TinyGPT-V, later version", later)];
    let article = article.map(|(model, score)| Published { model, score, source: ARTICLE });
    let others = others.iter().map(|(model, score)| Published { model, score: *score, source: SURVEY });
    article.into_iter().chain(others).collect()
}
