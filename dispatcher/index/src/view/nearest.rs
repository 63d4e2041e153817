//! The cascade: every layer is read for fewer rows than the one before.

use super::{Found, Place, View};
use crate::codes::{Probe, Scratch};
use crate::{Filter, Segment};
use rayon::prelude::*;

/// How many rows go on from a layer to the next.
#[derive(Debug, Clone, Copy)]
struct Width {
    /// From the first layer, times the square root of the number of rows.
    first: f32,
    /// From the second layer, times the square root of the number of rows.
    second: f32,
}

/// For queries of one vector. Random vectors are the worst case and set all of these; see BENCHMARKS.md.
const OF_ONE: Width = Width { first: 200.0, second: 6.0 };
/// For queries of many: their scores, as means, lie closer together.
const OF_MANY: Width = Width { first: 300.0, second: 20.0 };
/// Rows that reach the third layer at the least, and for each wanted hit.
const LEAST: (usize, usize) = (2048, 16);
/// Codes that one thread reads in a row.
const AT_A_TIME: usize = 1024;
/// How many typical errors a score is believed to be off at the most.
const ERRORS: f32 = 3.0;
/// Most rows that are in doubt, for each wanted hit and beside them.
const DOUBTFUL: (usize, usize) = (8, 256);

impl View {
    /// The rows whose vectors answer `probe` best among those that `filter` lets through: about `count` and the ones that
    /// may belong to them, best first, with estimated scores. Segments of other shapes have none. An item is let through by
    /// any of its texts: its vectors may have come with an answer.
    pub fn nearest(&self, probe: &Probe, filter: &Filter, count: usize) -> Vec<Found> {
        let codes = self.codes(probe, filter);
        let width = if probe.vectors() > 4 { OF_MANY } else { OF_ONE };
        let root = (codes.len() as f32).sqrt();
        let least = LEAST.0.max(count.saturating_mul(LEAST.1));
        let keep = ((root * width.second) as usize).max(least);
        let from_first = ((root * width.first) as usize).max(least);
        let codes = self.best(codes, from_first, |segment, code| {
            let each = probe.shape().sign_bytes();
            probe.first(&segment.first_layer()[code * each..][..each])
        });
        let codes = self.best(codes, keep, |segment, code| probe.second(segment.codes(code)));
        let mut found: Vec<Found> = codes
            .par_chunks(AT_A_TIME / 32)
            .flat_map_iter(|codes| {
                let mut scratch = Scratch::default();
                codes
                    .iter()
                    .map(|code| {
                        let segment = &self.segments[code.segment as usize];
                        let (score, error) = probe.all(segment.codes(code.code as usize), &mut scratch);
                        let row = segment.row_of_code(code.code as usize) as u32;
                        Found { place: Place { segment: code.segment, row }, score, error }
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        found.sort_unstable_by(|one, other| {
            other.score.total_cmp(&one.score).then_with(|| one.place.cmp(&other.place))
        });
        found
    }

    /// The codes of all rows that count and that `filter` lets through.
    fn codes(&self, probe: &Probe, filter: &Filter) -> Vec<Code> {
        let segments = self.segments.par_iter().zip(&self.standing).enumerate();
        segments
            .filter(|(_, (segment, _))| segment.shape() == probe.shape())
            .flat_map_iter(|(number, (segment, standing))| {
                (0..segment.coded()).filter_map(move |code| {
                    let row = segment.row_of_code(code);
                    let place = Place { segment: number as u32, row: row as u32 };
                    let through = standing[row].has_vectors && self.is_let_through(place, filter);
                    through.then_some(Code { segment: number as u32, code: code as u32 })
                })
            })
            .collect()
    }

    /// The `count` codes with the highest scores, in the order in which they were given.
    fn best(
        &self,
        codes: Vec<Code>,
        count: usize,
        score: impl Fn(&Segment, usize) -> f32 + Sync,
    ) -> Vec<Code> {
        if codes.len() <= count {
            return codes;
        }
        let score = |code: &Code| score(&self.segments[code.segment as usize], code.code as usize);
        let scores: Vec<f32> = codes.par_iter().with_min_len(AT_A_TIME).map(score).collect();
        let mut ordered = scores.clone();
        let (_, threshold, _) = ordered.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one));
        let threshold = *threshold;
        codes.into_iter().zip(scores).filter(|(_, score)| *score >= threshold).map(|(code, _)| code).collect()
    }
}

/// One row's codes.
#[derive(Debug, Clone, Copy)]
struct Code {
    segment: u32,
    code: u32,
}

/// How many of the first of `found`, which is in order, may belong to the best `count`: those are to be compared exactly.
pub fn doubtful(found: &[Found], count: usize) -> usize {
    let Some(last) = found.get(count.saturating_sub(1)) else {
        return found.len();
    };
    let possible = |other: &Found| {
        other.score + ERRORS * (last.error * last.error + other.error * other.error).sqrt() >= last.score
    };
    let most = count.saturating_mul(DOUBTFUL.0).saturating_add(DOUBTFUL.1);
    let more = found[count..].iter().take(most.saturating_sub(count)).take_while(|other| possible(other));
    count + more.count()
}
