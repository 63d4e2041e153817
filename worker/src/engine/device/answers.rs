//! What a step's rows mean to those who asked.

use std::time::Instant;

use captionfleet_model::StopReason;
use rayon::prelude::*;

use super::DeviceThread;
use crate::engine::contained::contained;
use crate::engine::request::{OneAnswer, RequestId, Work};
use crate::engine::scheduler::Seat;
use crate::engine::sequence::{Live, Sequence};
use crate::engine::step::{Scores, Sight, vectors};
use crate::engine::{EngineError, Stage};

impl DeviceThread {
    pub(super) fn seen(&mut self, id: RequestId, sight: Sight) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if let Some(key) = live.key {
            match sight.for_caption() {
                Some(seen) => {
                    self.features.insert(key, seen.clone());
                    live.seen = Some(seen.clone());
                    let (priority, others) = (live.work.priority(), live.work.take_others());
                    self.admit_others(priority, others, &seen);
                }
                None => self.fail(id, EngineError::Model("the vision step gave no image tokens".to_owned())),
            }
            return;
        }
        let Some(live) = self.leave(id) else { return };
        // Nobody listening is fine: the request was cancelled.
        match live.work {
            Work::Picture { reply, .. } => {
                let vectors = sight.embedding.map(|flat| vectors(&flat, self.dimension()));
                let _ = reply.send(vectors.ok_or(EngineError::NoRetrievalHead));
            }
            Work::Match { reply, .. } => {
                let _ = reply.send(sight.log_odds.ok_or(EngineError::NoRetrievalHead));
            }
            Work::Caption { .. } | Work::Text { .. } => {}
        }
    }

    /// Values of an embedding's vector.
    pub(super) fn dimension(&self) -> usize {
        self.loaded.model.retrieval().map_or(1, |head| head.config().embed_dim)
    }

    /// Chooses the rows' next tokens, side by side, while the device waits, and ends the sequences whose last ones they are.
    pub(super) fn say(&mut self, stage: Stage, seats: &[Seat], rows: Vec<Scores>) {
        let since = Instant::now();
        let mut speaking: Vec<(Seat, Sequence, Scores)> = Vec::with_capacity(seats.len());
        for (seat, row) in seats.iter().zip(rows) {
            let sequence = self.live.get_mut(&seat.request).and_then(|live| live.sequence.take());
            speaking.extend(sequence.map(|sequence| (*seat, sequence, row)));
        }
        let said = side_by_side(stage, &mut speaking, |(_, sequence, row)| sequence.say(row));
        for ((seat, sequence, _), said) in speaking.into_iter().zip(said) {
            if let Some(live) = self.live.get_mut(&seat.request) {
                live.sequence = Some(sequence);
            }
            let is_full = self.cache.len(seat.slot) >= self.cache.max_len();
            match said {
                Ok(Some(reason)) => self.end(stage, seat.request, reason),
                Ok(None) if is_full => self.end(stage, seat.request, StopReason::ContextFull),
                Ok(None) => {}
                Err(error) => self.fail(seat.request, error),
            }
        }
        self.elsewhere += since.elapsed().as_secs_f64();
    }

    fn end(&mut self, stage: Stage, id: RequestId, reason: StopReason) {
        let Some(Live {
            work: Work::Caption { request, at, reply, .. },
            sequence: Some(sequence),
            seen,
            device,
            ..
        }) = self.leave(id)
        else {
            return;
        };
        let embedding = seen.and_then(|seen| seen.embedding).filter(|_| request.embed && at == 0);
        let said = contained(stage, || sequence.result(&self.loaded.tokenizer, reason));
        // Nobody listening is fine: the request was cancelled.
        let _ = reply.send(said.map(|said| OneAnswer { said, embedding, device }));
    }

    pub(super) fn fail(&mut self, id: RequestId, error: EngineError) {
        if let Some(live) = self.leave(id) {
            live.work.fail(error);
        }
    }
}

/// Each sequence's next token, found at the same time. A panic is the error of the one that it happened in.
fn side_by_side<S: Send, T: Send>(
    stage: Stage,
    speaking: &mut [S],
    say: impl Fn(&mut S) -> Result<T, EngineError> + Sync,
) -> Vec<Result<T, EngineError>> {
    speaking.par_iter_mut().map(|one| contained(stage, || say(one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_choice_of_a_token_fails_no_neighbour() {
        let say = |seat: &mut usize| if *seat == 1 { panic!("injected into a choice") } else { Ok(*seat) };
        let said = side_by_side(Stage::Decode, &mut [0, 1, 2], say);
        assert!(
            matches!(said.as_slice(), [Ok(0), Err(EngineError::Panicked { step: "decode", .. }), Ok(2)]),
            "{said:?}"
        );
    }
}
