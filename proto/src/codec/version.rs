//! Which version of the contract a message says it has.

use std::fmt;

use crate::job::VERSION;

/// A version whose major is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    minor: u32,
}

impl Version {
    /// `MAJOR.MINOR` or `MAJOR`, if the major is the one that this program speaks.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = !minor.is_empty() && minor.len() <= 9 && minor.bytes().all(|b| b.is_ascii_digit());
        (major == "1" && is_number).then(|| minor.parse().ok()).flatten().map(|minor| Self { minor })
    }

    /// Whether it may say things that this program does not know.
    pub(super) fn is_later(self) -> bool {
        Self::read(VERSION).is_none_or(|ours| self.minor > ours.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_minors_are_later() {
        assert_eq!(Version::read(VERSION).map(Version::is_later), Some(false));
        assert_eq!(Version::read("1").map(Version::is_later), Some(false));
        assert_eq!(Version::read("1.999999999").map(Version::is_later), Some(true));
        for other in ["2.0", "1.", "1.x", "1.1234567890", "", "0.9", "1.0.1"] {
            assert_eq!(Version::read(other), None, "{other}");
        }
    }
}
