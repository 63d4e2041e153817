//! One request on the device: what has been seen of its picture, and what it has said so far.

use std::sync::Arc;

use captionfleet_model::constraint::{Constraint, State};
use captionfleet_model::{
    CaptionTokenizer, End, PromptTokens, Sampled, Sampler, StopCondition, StopReason, clean_caption,
    clean_unended, log_probability,
};

use super::feature_cache::{PictureKey, Seen};
use super::repetition::is_endless;
use super::request::{Ask, Manner, Said, Work};
use super::step::Scores;
use super::{DeviceTime, EngineError};

/// A request that the device thread knows.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) work: Work,
    /// Of captions only.
    pub(super) key: Option<PictureKey>,
    pub(super) seen: Option<Seen>,
    pub(super) sequence: Option<Sequence>,
    pub(super) device: DeviceTime,
}

impl Live {
    /// A request that the device has not begun with.
    pub(super) fn new(work: Work) -> Self {
        Self { work, key: None, seen: None, sequence: None, device: DeviceTime::default() }
    }
}

/// An answer being said.
#[derive(Debug)]
pub(super) struct Sequence {
    prompt: PromptTokens,
    choice: Choice,
    stop: StopCondition,
    logprob: f64,
}

/// How the next token is found.
#[derive(Debug)]
enum Choice {
    Free {
        sampler: Sampler,
        end: End,
    },
    /// The tokens are given.
    Exactly {
        text: Arc<str>,
        tokens: Vec<u32>,
    },
    Within {
        sampler: Sampler,
        constraint: Arc<Constraint>,
        state: State,
        share: f64,
    },
}

impl Sequence {
    pub(super) fn new(tokenizer: &CaptionTokenizer, ask: &Ask) -> Result<Self, EngineError> {
        let sampling = &ask.sampling;
        let mut prompt = PromptTokens::new(tokenizer, &ask.prompt)?;
        // The reference counts one begin-of-text token as said, without feeding it.
        let sampler = || Sampler::new(sampling, tokenizer.vocab_len()).with_seen([tokenizer.end_of_text()]);
        let (choice, end) = match &ask.manner {
            Manner::Free => (Choice::Free { sampler: sampler(), end: End::Answer }, End::Answer),
            Manner::Unended => (Choice::Free { sampler: sampler(), end: End::Reference }, End::Reference),
            Manner::Exactly(text) => {
                prompt.before.insert(0, tokenizer.end_of_text());
                let tokens = answer_tokens(tokenizer, text)?;
                (Choice::Exactly { text: Arc::clone(text), tokens }, End::Answer)
            }
            Manner::Within(constraint) => {
                let constraint = Arc::clone(constraint);
                let state = State::default();
                (Choice::Within { sampler: sampler(), constraint, state, share: 0.0 }, End::Answer)
            }
        };
        let stop = StopCondition::new(tokenizer, sampling.max_new_tokens).ending(end);
        Ok(Self { prompt, choice, stop, logprob: 0.0 })
    }

    pub(super) fn prompt(&self) -> &PromptTokens {
        &self.prompt
    }

    /// The token said last, which the next decode step is fed.
    pub(super) fn last_token(&self) -> Option<u32> {
        self.stop.tokens().last().copied()
    }

    /// Whether it goes on with the likeliest token, whatever it is, and need know nothing else.
    pub(super) fn takes_the_likeliest(&self) -> bool {
        matches!(&self.choice, Choice::Free { sampler, .. } if sampler.is_greedy())
    }

    /// Chooses the next token; tells if it was the last.
    pub(super) fn say(&mut self, scores: &Scores) -> Result<Option<StopReason>, EngineError> {
        let degenerate = |_| EngineError::Degenerate("the network's output is not a number");
        let logits = match (scores, &mut self.choice) {
            (Scores::All(logits), _) => logits,
            (Scores::Likeliest(found), Choice::Free { sampler, .. }) => {
                let sampled = sampler.take(found.map_err(degenerate)?);
                return self.said(sampled);
            }
            (Scores::Likeliest(_), _) => {
                return Err(EngineError::Model("it cannot go on with the likeliest token alone".to_owned()));
            }
        };
        match &mut self.choice {
            Choice::Free { sampler, .. } => {
                let sampled = sampler.next(logits).map_err(degenerate)?;
                self.said(sampled)
            }
            Choice::Exactly { tokens, .. } => {
                let said = self.stop.tokens().len();
                let token = *tokens.get(said).ok_or(EngineError::Degenerate("it has said all it had to"))?;
                self.logprob += f64::from(log_probability(logits, token).map_err(degenerate)?);
                self.stop.push(token)?;
                Ok((said + 1 == tokens.len()).then_some(StopReason::StopSequence))
            }
            Choice::Within { sampler, constraint, state, share } => {
                let allowed = constraint.allowed(state);
                let likeliest = sampler.likeliest(logits, &allowed.tokens).map_err(degenerate)?;
                let (sampled, of_them) = likeliest.ok_or(EngineError::Unmet)?;
                self.logprob += f64::from(sampled.logprob);
                *share += f64::from(of_them);
                let reason = self.stop.push(sampled.token)?;
                let Some(next) = constraint.after(state, sampled.token) else {
                    return Ok(Some(reason.unwrap_or(StopReason::StopSequence)));
                };
                *state = next;
                let next = constraint.allowed(state);
                match (next.complete, next.goes_on) {
                    // Nothing can follow, so the end need not be said.
                    (true, false) => Ok(Some(StopReason::StopSequence)),
                    (true, true) => Ok(reason),
                    (false, false) => Err(EngineError::Unmet),
                    (false, true) if reason.is_some() => Err(EngineError::Unmet),
                    (false, true) => Ok(None),
                }
            }
        }
    }

    fn said(&mut self, sampled: Sampled) -> Result<Option<StopReason>, EngineError> {
        self.logprob += f64::from(sampled.logprob);
        Ok(self.stop.push(sampled.token)?)
    }

    /// The answer of a sequence that has ended.
    pub(super) fn result(
        &self,
        tokenizer: &CaptionTokenizer,
        stop_reason: StopReason,
    ) -> Result<Said, EngineError> {
        let tokens = self.stop.tokens();
        let ran_out = matches!(stop_reason, StopReason::MaxTokens | StopReason::ContextFull);
        let said = match stop_reason {
            StopReason::EndOfText => &tokens[..tokens.len().saturating_sub(1)],
            _ => tokens,
        };
        let text = match &self.choice {
            Choice::Free { end: End::Answer, .. } if ran_out && is_endless(tokens) => {
                return Err(EngineError::Degenerate("it repeats one phrase without end"));
            }
            // The slot is full before the answer has its form.
            Choice::Within { constraint, state, .. } if !constraint.form().is_complete(state) => {
                return Err(EngineError::Unmet);
            }
            Choice::Exactly { text, .. } => text.to_string(),
            Choice::Free { end: End::Reference, .. } => clean_unended(&tokenizer.decode(said)?),
            Choice::Free { .. } | Choice::Within { .. } => clean_caption(&tokenizer.decode(said)?),
        };
        let share = match &self.choice {
            Choice::Within { share, .. } => Some(*share),
            _ => None,
        };
        Ok(Said { text, tokens: tokens.len() as u32, logprob: self.logprob, share, stop_reason })
    }
}

/// The tokens of a given answer with its end mark.
pub(super) fn answer_tokens(tokenizer: &CaptionTokenizer, text: &str) -> Result<Vec<u32>, EngineError> {
    Ok(tokenizer.encode_answer(text)?)
}
