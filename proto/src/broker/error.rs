//! What can go wrong with a broker, by kind.

use std::error::Error;
use std::fmt;

use super::InvalidQueueName;

/// What kind of failure it was; callers match on this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// The address is not one.
    InvalidUri,
    /// The broker refused the user, the password or the virtual host.
    Refused,
    /// No broker answers at the address, or it is away now.
    Unreachable,
    /// The message was returned: no queue of that name exists.
    Unroutable,
    /// The broker did not answer in time.
    Timeout,
    /// The queue cannot be declared: it exists with other arguments than ours, or its name is not one.
    Declare,
    /// There is no queue of that name.
    NoSuchQueue,
    /// The broker was closed by this program.
    Closed,
    /// The broker said something unexpected.
    Protocol,
}

impl BrokerErrorKind {
    fn phrase(self) -> &'static str {
        match self {
            Self::InvalidUri => "the broker's address is not valid",
            Self::Refused => "the broker refused the login",
            Self::Unreachable => "the broker cannot be reached",
            Self::Unroutable => "there is no queue of that name",
            Self::Timeout => "the broker did not answer in time",
            Self::Declare => "the queue cannot be declared",
            Self::NoSuchQueue => "there is no such queue",
            Self::Closed => "the broker was closed",
            Self::Protocol => "the broker answered with an error",
        }
    }
}

/// A broker operation that failed: which, on what, why, and what to do about it.
#[derive(Debug)]
pub struct BrokerError {
    kind: BrokerErrorKind,
    operation: &'static str,
    object: String,
    remedy: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl BrokerError {
    /// `operation` is a verb phrase ("publish to", "connect to"), `object` what it was done to, without
    /// credentials.
    pub(crate) fn new(kind: BrokerErrorKind, operation: &'static str, object: impl Into<String>) -> Self {
        Self { kind, operation, object: object.into(), remedy: None, source: None }
    }

    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A mailbox name that cannot be one.
    pub(crate) fn mailbox(name: &str, error: InvalidQueueName) -> Self {
        let name: String = name.chars().take(80).collect();
        Self::new(BrokerErrorKind::Declare, "open mailbox", name).with_source(error)
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }

    /// The queue or the address that the operation was about, without credentials.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.operation, self.object, self.kind.phrase())?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Error for BrokerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
