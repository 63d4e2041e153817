//! What can go wrong with an object, in kinds that callers decide by.

use std::error::Error;
use std::fmt;

/// What went wrong, as far as callers act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// No such object or file.
    NotFound,
    /// The credentials (or the user) are known but may not do this.
    PermissionDenied,
    /// There are no credentials, or they are refused.
    Unauthenticated,
    /// The bucket does not exist.
    NoSuchBucket,
    /// The bucket is in another region, or behind another endpoint.
    WrongRegion,
    /// The server asks to slow down, and kept doing so.
    Throttled,
    /// The server cannot be reached or fails.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The object is larger than allowed; nothing was read.
    TooLarge,
    /// The key, URI, endpoint or bucket name is not one.
    InvalidUri,
    /// No space or quota left.
    NoSpace,
    /// The stored bytes do not match their own checksum, every time they are read.
    Damaged,
    /// Not allowed to be read by configuration, or not a regular file.
    Refused,
    /// Anything else.
    Other,
}

impl StorageErrorKind {
    /// A short name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::NoSuchBucket => "no_such_bucket",
            Self::WrongRegion => "wrong_region",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::InvalidUri => "invalid_uri",
            Self::NoSpace => "no_space",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }

    /// Whether the same call may succeed later without anyone changing the request.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Timeout | Self::NoSpace)
    }

    /// Whether it is the store that is at fault: it is away or full, or refuses the credentials. The same call succeeds when
    /// that is mended, be it by people and after hours.
    pub fn is_outage(self) -> bool {
        self.is_transient() || self == Self::Unauthenticated
    }
}

/// A failed storage operation: `reading s3://bucket/key: access denied (AccessDenied); …`.
#[derive(Debug)]
pub struct StorageError {
    kind: StorageErrorKind,
    operation: &'static str,
    object: String,
    problem: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// `operation` is a participle ("reading"), `object` a URI, `problem` what went wrong and what to do.
    pub fn new(
        kind: StorageErrorKind,
        operation: &'static str,
        object: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self { kind, operation, object: object.into(), problem: problem.into(), source: None }
    }

    /// Adds the cause, whose text must not be part of `problem`.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong, as far as callers act on it.
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without anyone changing the request.
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// Whether it is the store that is at fault, see [`StorageErrorKind::is_outage`].
    pub fn is_outage(&self) -> bool {
        self.kind.is_outage()
    }

    /// The object's or place's URI.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.operation, self.object, self.problem)
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
