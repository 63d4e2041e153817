//! Answers that must have a form: which tokens may come next.
//!
//! A [`Constraint`] reads an answer byte by byte (`form`); the tokens that lead on are found by walking the
//! vocabulary's bytes as a tree ([`Vocabulary`]), and remembered for each state, so that a decode step looks them up.

mod form;
mod state;
mod utf8;
mod vocabulary;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use form::ValueForm;
pub use state::State;
pub use vocabulary::Vocabulary;

/// States whose tokens are remembered; there are few but for long texts and numbers.
const REMEMBERED: usize = 512;

/// Which answers are allowed, and the tokens that say them.
#[derive(Debug)]
pub struct Constraint {
    form: ValueForm,
    vocabulary: Arc<Vocabulary>,
    known: Mutex<HashMap<State, Arc<Allowed>>>,
}

/// What may come next.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The tokens, ascending; those that end the answer are among them where it may end.
    pub tokens: Vec<u32>,
    /// Whether any of them goes on with the answer.
    pub goes_on: bool,
    /// Whether the answer may end here.
    pub complete: bool,
}

impl Constraint {
    /// Allows what `form` says, in the tokens of `vocabulary`.
    pub fn new(form: ValueForm, vocabulary: Arc<Vocabulary>) -> Self {
        let constraint = Self { form, vocabulary, known: Mutex::default() };
        // The first step is the same for everyone who is asked, and costs most.
        constraint.allowed(&State::default());
        constraint
    }

    /// What it allows.
    pub fn form(&self) -> &ValueForm {
        &self.form
    }

    /// What may come next.
    pub fn allowed(&self, state: &State) -> Arc<Allowed> {
        let key = self.form.key(state, self.vocabulary.longest());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowed) = known.get(&key) {
            return Arc::clone(allowed);
        }
        let allowed = Arc::new(self.look(&key));
        if known.len() < REMEMBERED {
            known.insert(key, Arc::clone(&allowed));
        }
        allowed
    }

    fn look(&self, state: &State) -> Allowed {
        let complete = self.form.is_complete(state);
        let mut tokens = self.vocabulary.leading_on(state, |state, byte| self.form.step(state, byte));
        let goes_on = !tokens.is_empty();
        if complete {
            tokens.extend_from_slice(self.vocabulary.ends());
        }
        tokens.sort_unstable();
        Allowed { tokens, goes_on, complete }
    }

    /// The state after a token; `None` if the token does not lead on, as those that end the answer.
    pub fn after(&self, state: &State, token: u32) -> Option<State> {
        let bytes = self.vocabulary.bytes(token)?;
        bytes.iter().try_fold(state.clone(), |state, byte| self.form.step(&state, *byte))
    }
}

#[cfg(test)]
mod tests;
