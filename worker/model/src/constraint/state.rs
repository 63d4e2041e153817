//! How far an answer is.

use super::utf8::Utf8;

/// What of an answer decides how it may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Whether a blank stood in front, which does not count.
    pub(super) blank: bool,
    /// The answer so far; of texts only how much it is.
    pub(super) said: Vec<u8>,
    /// Characters so far; of texts only.
    pub(super) chars: usize,
    /// The character that has begun.
    pub(super) utf8: Utf8,
    /// Whether the last character is a `#`.
    pub(super) hash: bool,
}
