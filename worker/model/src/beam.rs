//! Beam search as the reference's `generate` does it: several continuations of each prompt are
//! kept, and the one with the best mean log-probability wins.
use candle_core::Tensor;

use crate::{
    DecodeRow, KvCache, PrefillRow, TinyGptV,
    generate::{GenerateError, rows_of},
};

/// Settings of a beam search.
#[derive(Clone, Debug)]
pub struct BeamOptions {
    /// Continuations kept per prompt.
    pub beams: usize,
    /// Tokens after which a search ends in any case.
    pub max_new_tokens: usize,
    /// A finished continuation's score is its log-probability over its length to this power.
    pub length_penalty: f32,
    /// Stands in front of every row without being fed to the model.
    pub begin: u32,
    /// Ends a continuation.
    pub end: u32,
    /// Fills rows that are shorter than others.
    pub pad: u32,
    /// Ids there are in the tokenizer.
    pub valid_vocab: usize,
}

/// A continuation still being extended.
#[derive(Clone)]
struct Beam {
    tokens: Vec<u32>,
    score: f32,
}

/// A continuation of a continuation, before it is known whether it is kept.
struct Candidate {
    parent: usize,
    token: u32,
    score: f32,
}

/// The best finished continuations of one prompt.
struct Finished {
    kept: Vec<(f32, Vec<u32>)>,
    limit: usize,
    length_penalty: f32,
}

/// One prompt's search.
struct Search {
    beams: Vec<Beam>,
    finished: Finished,
    done: bool,
}

/// Continues prompts `(T, H)`; returns the best row of ids for each, `begin` first. Rows end with
/// the end token if they ended before the limit and are filled to equal length.
pub fn search(
    model: &TinyGptV,
    prompts: &[Tensor],
    options: &BeamOptions,
) -> Result<Vec<Vec<u32>>, GenerateError> {
    let width = options.beams.max(1);
    let seats = prompts.len() * width;
    let longest = prompts.iter().map(|prompt| prompt.dims()[0]).max().unwrap_or(0);
    if longest == 0 || options.max_new_tokens == 0 {
        return Ok(vec![vec![options.begin]; prompts.len()]);
    }
    // Beams change seats at every step, so there are two sets: one is read while the other is
    // filled.
    let mut cache = KvCache::for_prefill(model, 2 * seats, longest + options.max_new_tokens - 1)?;
    let mut side = 0;
    let first: Vec<PrefillRow> = prompts
        .iter()
        .enumerate()
        .map(|(prompt, embeds)| PrefillRow::plain(prompt * width, embeds.clone()))
        .collect();
    let logits = rows_of(&model.prefill(&first, &mut cache)?)?;
    let mut searches: Vec<Search> = prompts.iter().map(|_| Search::new(width, options)).collect();
    // All beams of a prompt are equal at first; their slots all are that prompt's.
    let mut scores: Vec<Vec<f32>> = logits.into_iter().flat_map(|row| vec![row; width]).collect();
    let mut sources: Vec<usize> = (0..seats).map(|seat| seat / width * width).collect();
    for said in 1.. {
        let mut next = Vec::with_capacity(seats);
        for (prompt, search) in searches.iter_mut().enumerate() {
            let base = prompt * width;
            let parents = search.step(&scores[base..base + width], said, options);
            next.extend(parents.into_iter().map(|parent| sources[base + parent]));
        }
        if said == options.max_new_tokens || searches.iter().all(|search| search.done) {
            break;
        }
        let target = seats * (1 - side);
        for (seat, &source) in next.iter().enumerate() {
            cache.copy_slot(source, target + seat)?;
        }
        side = 1 - side;
        sources = (target..target + seats).collect();
        let rows: Vec<DecodeRow> = sources
            .iter()
            .zip(searches.iter().flat_map(|search| &search.beams))
            .map(|(&slot, beam)| DecodeRow {
                slot,
                token: beam.tokens.last().copied().unwrap_or(options.begin),
            })
            .collect();
        scores = rows_of(&model.decode(&rows, &mut cache)?)?;
    }
    Ok(level(searches.into_iter().map(Search::best).collect(), options))
}

impl Search {
    fn new(width: usize, options: &BeamOptions) -> Self {
        let beam = |index| Beam {
            tokens: Vec::new(),
            // Only the first of the equal beams counts in the first step.
            score: if index == 0 { 0.0 } else { -1e9 },
        };
        Self {
            beams: (0..width).map(beam).collect(),
            finished: Finished { kept: Vec::new(), limit: width, length_penalty: options.length_penalty },
            done: false,
        }
    }

    /// Extends the beams by one token; returns which beam each new one continues.
    fn step(&mut self, logits: &[Vec<f32>], said: usize, options: &BeamOptions) -> Vec<usize> {
        let width = self.beams.len();
        if self.done {
            // The rows go on being computed with their neighbours, to no effect.
            for beam in &mut self.beams {
                beam.tokens.push(options.pad);
            }
            return (0..width).collect();
        }
        let candidates = self.candidates(logits, options.valid_vocab);
        let best = candidates.first().map_or(f32::NEG_INFINITY, |candidate| candidate.score);
        let mut extended = Vec::with_capacity(width);
        let mut parents = Vec::with_capacity(width);
        for (rank, candidate) in candidates.iter().enumerate() {
            let parent = &self.beams[candidate.parent];
            if candidate.token == options.end {
                // An end that is not among the best continuations says nothing.
                if rank < width {
                    // its length counts the end token, which the row gets later
                    self.finished.add(candidate.score, parent.tokens.clone(), said);
                }
                continue;
            }
            let mut tokens = parent.tokens.clone();
            tokens.push(candidate.token);
            extended.push(Beam { tokens, score: candidate.score });
            parents.push(candidate.parent);
            if extended.len() == width {
                break;
            }
        }
        self.beams = extended;
        self.done = self.finished.cannot_be_beaten_by(best, said);
        parents
    }

    /// The best continuations of all beams, best first: enough that `width` remain if every beam
    /// could end.
    fn candidates(&self, logits: &[Vec<f32>], valid_vocab: usize) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (parent, (beam, logits)) in self.beams.iter().zip(logits).enumerate() {
            let logits = &logits[..logits.len().min(valid_vocab)];
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total = logits.iter().map(|&logit| (logit - max).exp()).sum::<f32>().ln();
            candidates.extend(logits.iter().enumerate().map(|(token, logit)| Candidate {
                parent,
                token: token as u32,
                score: beam.score + (logit - max - total),
            }));
        }
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.truncate(2 * self.beams.len());
        candidates
    }

    fn best(mut self) -> Vec<u32> {
        if !self.done {
            for beam in self.beams {
                let length = beam.tokens.len();
                self.finished.add(beam.score, beam.tokens, length);
            }
        }
        let best = self.finished.kept.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or_else(Vec::new, |(_, tokens)| tokens)
    }
}

impl Finished {
    fn add(&mut self, log_probability: f32, tokens: Vec<u32>, length: usize) {
        self.kept.push((self.normalised(log_probability, length), tokens));
        if self.kept.len() > self.limit {
            let worst = (0..self.kept.len()).min_by(|&a, &b| self.kept[a].0.total_cmp(&self.kept[b].0));
            self.kept.swap_remove(worst.unwrap_or(0));
        }
    }

    /// Whether even the best running beam, at its present length, cannot enter.
    fn cannot_be_beaten_by(&self, log_probability: f32, length: usize) -> bool {
        let worst = self.kept.iter().map(|(score, _)| *score).fold(f32::INFINITY, f32::min);
        self.kept.len() == self.limit && worst >= self.normalised(log_probability, length)
    }

    fn normalised(&self, log_probability: f32, length: usize) -> f32 {
        log_probability / (length as f32).powf(self.length_penalty)
    }
}

/// Gives the rows their begin and, where they are shorter than the limit, their end.
fn level(rows: Vec<Vec<u32>>, options: &BeamOptions) -> Vec<Vec<u32>> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let target = (longest + 1).min(options.max_new_tokens);
    rows.into_iter()
        .map(|row| {
            let mut levelled = vec![options.begin];
            levelled.extend(row);
            if levelled.len() <= target {
                levelled.push(options.end);
            }
            levelled.resize(target + 1, options.pad);
            levelled
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    fn options() -> BeamOptions {
        BeamOptions {
            beams: 2,
            max_new_tokens: 8,
            length_penalty: 1.0,
            begin: 9,
            end: END,
            pad: END,
            valid_vocab: 4,
        }
    }

    /// Logits of which `token` takes nearly all the probability.
    fn certain_of(token: usize) -> Vec<f32> {
        (0..4).map(|id| if id == token { 5.0 } else { 0.0 }).collect()
    }

    #[test]
    fn an_end_counts_in_the_length_of_what_it_ends() {
        let mut search = Search::new(2, &options());
        let certain = certain_of(END as usize);
        search.step(&[certain.clone(), certain], 1, &options());
        let (score, tokens) = &search.finished.kept[0];
        assert!(tokens.is_empty());
        // all of one token's probability: a mean of nearly 0
        assert!(*score > -0.1, "{score}");
    }

    #[test]
    fn an_end_at_once_wins_if_it_is_the_likeliest() {
        let mut search = Search::new(2, &options());
        let first = certain_of(END as usize);
        search.step(&[first.clone(), first], 1, &options());
        for said in 2..=8 {
            search.step(&[vec![0.0; 4], vec![0.0; 4]], said, &options());
        }
        assert_eq!(search.best(), Vec::<u32>::new());
    }
}
