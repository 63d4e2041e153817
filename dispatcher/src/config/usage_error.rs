//! What is wrong with a command line.

/// A command line that cannot be meant: exit code 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// The whole message, with what to do about it.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
