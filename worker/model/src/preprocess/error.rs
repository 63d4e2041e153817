//! Why a picture cannot be used.

use super::DecodeLimits;

/// A picture that cannot be decoded. [`DecodeError::code`] is what a row records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not a picture, or of a kind that is not read.
    #[error("not a picture that can be read: {0}")]
    UnsupportedFormat(String),
    /// The file ends before the picture does.
    #[error("the {format} file is truncated")]
    Truncated {
        /// `JPEG`, `PNG` …
        format: &'static str,
    },
    /// The bytes contradict the format.
    #[error("the {format} file is corrupt: {reason}")]
    Corrupt {
        /// `JPEG`, `PNG` …
        format: &'static str,
        /// what the decoder said
        reason: String,
    },
    /// More bytes than allowed.
    #[error("the file has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// size of the file
        bytes: u64,
        /// [`DecodeLimits::max_bytes`](super::DecodeLimits::max_bytes)
        limit: u64,
    },
    /// More pixels, or a longer side, than allowed.
    #[error("the picture is {width} x {height} pixels; {} in all and {} a side are allowed", limits.max_pixels, limits.max_side)]
    TooManyPixels {
        /// pixels per row
        width: u32,
        /// rows
        height: u32,
        /// what is allowed
        limits: DecodeLimits,
    },
}

impl DecodeError {
    /// Stable name for rows and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnsupportedFormat(_) => "unsupported_format",
            Self::Truncated { .. } => "truncated",
            Self::Corrupt { .. } => "corrupt",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyPixels { .. } => "too_many_pixels",
        }
    }
}
