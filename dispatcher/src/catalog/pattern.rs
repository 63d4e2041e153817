//! Patterns: `photos/**/*.jpg`, also when the shell did not expand them.

use super::CatalogError;
use glob::{MatchOptions, Pattern};
use std::path::PathBuf;

/// `*` crosses no `/`, and hidden names must be named.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Every path that matches, in the order of names; an error when there is none.
pub(super) fn matches(pattern: &str) -> Result<Vec<PathBuf>, CatalogError> {
    let paths = glob::glob_with(pattern, OPTIONS)
        .map_err(|source| CatalogError::Pattern { pattern: pattern.to_owned(), source })?;
    // A folder that cannot be read may hide matches; the name itself is then the item that fails.
    let matched: Vec<_> = paths.map(|path| path.unwrap_or_else(|error| error.path().to_owned())).collect();
    if matched.is_empty() {
        return Err(CatalogError::NoMatch { pattern: pattern.to_owned() });
    }
    Ok(matched)
}

/// A pattern over keys.
pub(super) struct KeyPattern {
    pattern: Pattern,
    /// The part before the first special character: what the store is asked to list.
    pub(super) prefix: String,
}

impl KeyPattern {
    /// Understands `text`.
    pub(super) fn new(text: &str) -> Result<Self, CatalogError> {
        let pattern = Pattern::new(text)
            .map_err(|source| CatalogError::Pattern { pattern: text.to_owned(), source })?;
        let prefix = text.split(['*', '?', '[']).next().unwrap_or_default().to_owned();
        Ok(Self { pattern, prefix })
    }

    /// Whether `key` matches.
    pub(super) fn takes(&self, key: &str) -> bool {
        self.pattern.matches_with(key, OPTIONS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{KeyPattern, matches};
    use std::fs;

    #[test]
    fn patterns_cross_folders_only_with_two_stars() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        for name in ["x.jpg", "a/y.jpg", "a/b/z.jpg", ".h.jpg", "n.txt"] {
            fs::write(root.path().join(name), b"").unwrap();
        }
        let count = |pattern: &str| {
            matches(&format!("{}/{pattern}", root.path().display())).map_or(0, |paths| paths.len())
        };
        assert_eq!((count("*.jpg"), count("*/*.jpg"), count("**/*.jpg"), count("*.gif")), (1, 1, 3, 0));
    }

    #[test]
    fn keys_match_like_paths() {
        let pattern = KeyPattern::new("2024/*/a?.png").unwrap();
        assert_eq!(pattern.prefix, "2024/");
        assert!(pattern.takes("2024/05/a1.png"));
        assert!(!pattern.takes("2024/05/06/a1.png"));
    }
}
