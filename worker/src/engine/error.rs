//! What can go wrong with one request.

use captionfleet_model::{ModelError, PromptError, TokenizerError, chain};

/// Why a request has no result. Cloneable: all requests of a failed step get the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The output is noise and must not be stored as an answer.
    #[error("the model's output is degenerate: {0}")]
    Degenerate(&'static str),
    /// Prompt, picture and answer together do not fit a slot.
    #[error(
        "the prompt takes {tokens} tokens with its picture and its answer, a slot holds {limit}: \
         shorten the prompt, lower the token limit, or start the worker with a larger --slot-tokens"
    )]
    PromptTooLong {
        /// Tokens of prompt, picture and longest answer.
        tokens: usize,
        /// Tokens of one slot.
        limit: usize,
    },
    /// The prompt cannot be used.
    #[error("{0}")]
    Prompt(String),
    /// The answer was cut off, or could not go on, before it had the form that it must have.
    #[error(
        "the answer does not have the form that was asked for when its tokens run out: allow more of them"
    )]
    Unmet,
    /// The bundle was packed without retrieval heads.
    #[error("this bundle has no retrieval heads, so it makes no embeddings: pack it with --itc")]
    NoRetrievalHead,
    /// The null engine knows no words.
    #[error(
        "the null engine serves, which is for load tests only: it takes captions and plain questions, no choices, no forms and \
         no adapters"
    )]
    NullEngine,
    /// The network failed.
    #[error("the model failed: {0}")]
    Model(String),
    /// The device has no memory left for the step.
    #[error("the device ran out of memory: {0}")]
    OutOfMemory(String),
    /// A bug: the step panicked and was contained.
    #[error("a {step} step panicked: {message}")]
    Panicked {
        /// Which step.
        step: &'static str,
        /// What the panic said.
        message: String,
    },
    /// The device does not come back from a step.
    #[error(
        "the device has not finished a step within {seconds} s: it hangs, and only a new process can use it again"
    )]
    Hung {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The device computes nothing any more, whatever it is given.
    #[error(
        "the device is broken, and only a new process can use it again ({0}); if that does not help, look at the driver's \
         log (dmesg, nvidia-smi -q) and reset the GPU or restart the machine"
    )]
    Broken(String),
    /// The engine was stopped before the answer.
    #[error("the engine is stopping")]
    Stopped,
}

impl EngineError {
    /// The code in rows and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Degenerate(_) => "degenerate",
            Self::Unmet => "constraint_unmet",
            Self::PromptTooLong { .. } | Self::Prompt(_) => "prompt_too_long",
            Self::NoRetrievalHead
            | Self::NullEngine
            | Self::Model(_)
            | Self::OutOfMemory(_)
            | Self::Panicked { .. }
            | Self::Hung { .. }
            | Self::Broken(_)
            | Self::Stopped => "internal",
        }
    }

    /// Whether the network or the device failed, and not what was asked.
    pub(crate) fn is_failed_step(&self) -> bool {
        matches!(self, Self::Model(_) | Self::Panicked { .. })
    }
}

/// What an error and its causes say, if one of them is that the device is full: the backend has no error of its own for that,
/// only the driver's text.
pub(crate) fn shortage(error: &dyn std::error::Error) -> Option<String> {
    let text = chain(error);
    let lower = text.to_ascii_lowercase();
    let is_full =
        ["out of memory", "out_of_memory", "alloc_failed"].iter().any(|words| lower.contains(words));
    is_full.then_some(text)
}

fn of_the_device(error: &dyn std::error::Error) -> EngineError {
    shortage(error).map_or_else(|| EngineError::Model(chain(error)), EngineError::OutOfMemory)
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        of_the_device(&error)
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        of_the_device(&error)
    }
}

impl From<TokenizerError> for EngineError {
    fn from(error: TokenizerError) -> Self {
        Self::Model(chain(&error))
    }
}

impl From<PromptError> for EngineError {
    fn from(error: PromptError) -> Self {
        Self::Prompt(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_told_from_other_faults() {
        let driver =
            candle_core::Error::Msg("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".to_owned());
        assert!(matches!(EngineError::from(driver), EngineError::OutOfMemory(_)));
        let other = candle_core::Error::Msg("shape mismatch".to_owned());
        assert!(matches!(EngineError::from(other), EngineError::Model(_)));
    }
}
