//! Patterns: `photos/**/*.jpg`, also when the shell did not expand them.
//!
//! The walk is ours: the crate's own gives up on names that are not UTF-8, and follows links in circles.

use super::CatalogError;
use super::source::is_pattern;
use glob::{MatchOptions, Pattern};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `*` crosses no `/`, and hidden names must be named.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// One part of a pattern, between slashes.
enum Part {
    /// A name as it stands.
    Name(String),
    /// A name with special characters.
    Like(Pattern),
    /// `**`: this folder and every one below it; links are not followed.
    Below,
}

/// Every path that matches, in the order of names; an error when there is none.
pub(super) fn matches(pattern: &str) -> Result<Vec<PathBuf>, CatalogError> {
    let invalid = |source| CatalogError::Pattern { pattern: pattern.to_owned(), source };
    Pattern::new(pattern).map_err(invalid)?;
    let mut parts = Vec::new();
    for text in pattern.split('/').filter(|text| !text.is_empty()) {
        parts.push(match text {
            "**" => Part::Below,
            _ if is_pattern(text) => Part::Like(Pattern::new(text).map_err(invalid)?),
            _ => Part::Name(text.to_owned()),
        });
    }
    let mut found = BTreeSet::new();
    expand(Path::new(if pattern.starts_with('/') { "/" } else { "" }), &parts, &mut found);
    if pattern.ends_with('/') {
        found.retain(|path| path.is_dir());
    }
    if found.is_empty() {
        return Err(CatalogError::NoMatch { pattern: pattern.to_owned() });
    }
    Ok(found.into_iter().collect())
}

fn expand(folder: &Path, parts: &[Part], found: &mut BTreeSet<PathBuf>) {
    let Some((part, rest)) = parts.split_first() else {
        found.insert(folder.to_owned());
        return;
    };
    match part {
        Part::Name(name) => {
            let path = folder.join(name);
            if path.symlink_metadata().is_ok() {
                expand(&path, rest, found);
            }
        }
        Part::Like(pattern) => {
            for (name, _) in list(folder, found) {
                // A byte that is no letter matches what any unknown letter does.
                let path = folder.join(&name);
                if pattern.matches_with(&name.to_string_lossy(), OPTIONS)
                    && (rest.is_empty() || path.is_dir())
                {
                    expand(&path, rest, found);
                }
            }
        }
        // Whoever takes a folder takes what is below it.
        Part::Below if rest.is_empty() => {
            if shown(folder).is_dir() {
                found.insert(shown(folder).to_owned());
            }
        }
        Part::Below => {
            expand(folder, rest, found);
            for (name, is_folder) in list(folder, found) {
                if is_folder && !name.as_encoded_bytes().starts_with(b".") {
                    expand(&folder.join(name), parts, found);
                }
            }
        }
    }
}

/// The names in `folder`, and which of them are folders themselves. One that cannot be listed may hide matches: it is
/// then the match that fails.
fn list(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Vec<(OsString, bool)> {
    let shown = shown(folder);
    if !shown.is_dir() {
        return Vec::new();
    }
    let listed = std::fs::read_dir(shown).and_then(|entries| {
        entries
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name(), entry.file_type().is_ok_and(|kind| kind.is_dir())))
            })
            .collect()
    });
    listed.unwrap_or_else(|_| {
        found.insert(shown.to_owned());
        Vec::new()
    })
}

/// The folder by a name that the system understands.
fn shown(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
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
        assert_eq!((count("a/**"), count("**/b/*.jpg"), count("*/"), count("./a/[xy].jpg")), (1, 1, 1, 1));
    }

    #[test]
    fn odd_names_and_links_in_circles_are_no_obstacle() {
        use std::os::unix::ffi::OsStrExt as _;
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        for name in [b"x.jpg".as_slice(), b"bad\xff.jpg", b"a/new\nline.jpg"] {
            fs::write(root.path().join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
        }
        for link in ["loop", "a/loop"] {
            std::os::unix::fs::symlink(root.path(), root.path().join(link)).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", root.path().join("gone.jpg")).unwrap();
        let found = |pattern: &str| matches(&format!("{}/{pattern}", root.path().display())).unwrap().len();
        // A link that leads nowhere is a match, and then an item that fails.
        assert_eq!((found("*.jpg"), found("**/*.jpg"), found("loop/a/*.jpg")), (3, 4, 1));
    }

    #[test]
    fn keys_match_like_paths() {
        let pattern = KeyPattern::new("2024/*/a?.png").unwrap();
        assert_eq!(pattern.prefix, "2024/");
        assert!(pattern.takes("2024/05/a1.png"));
        assert!(!pattern.takes("2024/05/06/a1.png"));
    }
}
