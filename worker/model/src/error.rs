//! What can go wrong when a model is built or run.
use crate::{ConfigError, WeightError};

/// Building or running the model failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The weights lack a tensor or hold one of another shape.
    #[error("the weights do not fit the model's configuration")]
    Weights(#[from] WeightError),
    /// The dimensions contradict each other.
    #[error("the model's configuration is inconsistent")]
    Config(#[from] ConfigError),
    /// The backend refused or failed an operation (out of memory among others).
    #[error("the backend failed during {operation}")]
    Backend {
        /// The step that was running.
        operation: &'static str,
        /// What the backend said.
        #[source]
        source: candle_core::Error,
    },
    /// A sequence does not fit its slot of the key-value cache.
    #[error("slot {slot} holds {held} tokens and cannot take {wanted} more (limit {limit})")]
    SlotFull {
        /// The slot.
        slot: usize,
        /// Tokens it holds.
        held: usize,
        /// Tokens that were to be added.
        wanted: usize,
        /// Tokens it can hold.
        limit: usize,
    },
    /// A slot outside the cache, named twice in one step, or empty where it must not be.
    #[error("slot {slot} cannot be used: {reason}")]
    Slot {
        /// The slot.
        slot: usize,
        /// Why not.
        reason: &'static str,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the token table.
        vocabulary: usize,
    },
    /// A text that is empty or longer than the position table.
    #[error("the text has {tokens} tokens; the text encoder takes 1 to {limit}")]
    TextLength {
        /// Tokens given.
        tokens: usize,
        /// Positions there are.
        limit: usize,
    },
    /// The model was built without retrieval heads.
    #[error("this model has no retrieval heads")]
    NoRetrieval,
}

/// Names the running step in a backend failure.
pub(crate) trait DuringStep<T> {
    /// Wraps the backend's error.
    fn during(self, operation: &'static str) -> Result<T, ModelError>;
}

impl<T> DuringStep<T> for candle_core::Result<T> {
    fn during(self, operation: &'static str) -> Result<T, ModelError> {
        self.map_err(|source| ModelError::Backend { operation, source })
    }
}
