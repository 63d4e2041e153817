//! Full text over captions: BM25.

use super::{Found, Place, View};
use crate::Filter;
use crate::words::words;
use std::collections::{BTreeSet, HashMap, HashSet};

/// How soon more occurrences of a word stop to count.
const SATURATION: f32 = 1.2;
/// How much a long caption is held against its words.
const LENGTH: f32 = 0.75;

impl View {
    /// The rows whose captions have words of `text`, among those that `filter` lets through: best first.
    pub fn keywords(&self, text: &str, filter: &Filter, count: usize) -> Vec<Found> {
        let (captions, mean) = self.captions();
        let mut scores: HashMap<Place, f32> = HashMap::new();
        for word in words(text).collect::<BTreeSet<_>>() {
            let rows = self.rows_with(&word);
            let (all, with) = (captions as f32, rows.len() as f32);
            let rarity = ((all - with + 0.5) / (with + 0.5) + 1.0).ln();
            for (place, times) in rows {
                if !filter.is_open() && !self.row_is_let_through(place, filter) {
                    continue;
                }
                let record = self.row(place).1;
                let (times, length) = (times as f32, record.words as f32 / mean);
                let weight =
                    times * (SATURATION + 1.0) / (times + SATURATION * (1.0 - LENGTH + LENGTH * length));
                *scores.entry(place).or_default() += rarity * weight;
            }
        }
        let mut found: Vec<Found> =
            scores.into_iter().map(|(place, score)| Found { place, score, error: 0.0 }).collect();
        found.sort_unstable_by(|one, other| {
            other.score.total_cmp(&one.score).then_with(|| one.place.cmp(&other.place))
        });
        // A picture stands once, with the text that fits best.
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert(self.row(found.place).1.key));
        found.truncate(count);
        found
    }

    /// Number and mean length of captions.
    fn captions(&self) -> (usize, f32) {
        let (mut captions, mut words) = (0, 0_u64);
        for (segment, standing) in self.segments.iter().zip(&self.standing) {
            for (row, standing) in standing.iter().enumerate() {
                if standing.has_caption {
                    captions += 1;
                    words += u64::from(segment.record(row).words);
                }
            }
        }
        (captions, (words as f32 / captions.max(1) as f32).max(1.0))
    }

    fn rows_with(&self, word: &str) -> Vec<(Place, u32)> {
        let mut rows = Vec::new();
        for (number, (segment, standing)) in self.segments.iter().zip(&self.standing).enumerate() {
            let counts = segment.postings(word).filter(|(row, _)| standing[*row].has_caption);
            rows.extend(
                counts.map(|(row, times)| (Place { segment: number as u32, row: row as u32 }, times)),
            );
        }
        rows
    }
}
