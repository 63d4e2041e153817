//! The name of a queue.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name AMQP can carry, in bytes.
const MAX_BYTES: usize = 255;

/// The name of a queue: 1 to 255 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(String);

/// A text that cannot name a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a queue: it takes 1 to 255 bytes without control characters")]
pub struct InvalidQueueName(String);

impl QueueName {
    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidQueueName> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_BYTES || name.chars().any(char::is_control) {
            return Err(InvalidQueueName::of(&name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InvalidQueueName {
    /// The refusal of `name`, cut so that a hostile one does not fill the log.
    pub(crate) fn of(name: &str) -> Self {
        Self(name.chars().take(MAX_BYTES).collect())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for QueueName {
    type Error = InvalidQueueName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::QueueName;

    #[test]
    fn accepts_what_amqp_can_carry() {
        assert!(QueueName::new("captionfleet.bulk").is_ok());
        assert!(QueueName::new("é".repeat(127)).is_ok());
    }

    #[test]
    fn refuses_empty_long_and_control() {
        assert!(QueueName::new("").is_err());
        assert!(QueueName::new("é".repeat(128)).is_err());
        assert!(QueueName::new("a\nb").is_err());
    }
}
