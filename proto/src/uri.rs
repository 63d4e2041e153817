//! Names of pictures and archives: `file:///absolute/path` and `s3://bucket/key`, nothing else.
//!
//! Every byte outside `A-Z a-z 0-9 - . _ ~ /` is percent-encoded, so that a URI is plain ASCII whatever the file
//! system or the bucket allows: blanks, `%`, `#`, `?`, line feeds, bytes that are not UTF-8. Parsing is lenient
//! about what need not be ambiguous (raw blanks, raw letters of any script, `file://localhost/`) and yields the
//! one canonical spelling, so that equal names compare equal.

mod archive;
mod item;
mod percent;

pub use archive::ArchiveUri;
pub use item::{ItemUri, Location};

/// Longest URI that is accepted, in bytes: a path of 4096 bytes, every one of them encoded, fits.
pub const MAX_URI_BYTES: usize = 16 * 1024;

/// Longest S3 key, in bytes (the limit of S3 itself).
pub const MAX_KEY_BYTES: usize = 1024;

/// Why a string is not the name of a picture or an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Neither `file` nor `s3`.
    #[error("`{uri}` has the scheme `{scheme}`: only file:// and s3:// are read")]
    Scheme {
        /// What was given, shortened.
        uri: String,
        /// The scheme found.
        scheme: String,
    },
    /// No scheme at all where a URI is required.
    #[error("`{0}` is not a URI: write file:///absolute/path or s3://bucket/key")]
    NotAUri(String),
    /// A relative path.
    #[error("`{0}` is a relative path: give it from the root, file:///absolute/path")]
    Relative(String),
    /// `file://host/…`.
    #[error(
        "`{uri}` names the host `{host}`: files are read on this machine only, write file:///absolute/path"
    )]
    Host {
        /// What was given, shortened.
        uri: String,
        /// The host found.
        host: String,
    },
    /// A `..` segment in a file path.
    #[error("`{0}` contains a `..` segment: give the path without it")]
    ParentSegment(String),
    /// A NUL byte.
    #[error("`{0}` contains a NUL byte")]
    Nul(String),
    /// `%` without two hexadecimal digits.
    #[error("`{0}` has a `%` that two hexadecimal digits do not follow: a literal `%` is written %25")]
    Percent(String),
    /// A raw `?` or `#`.
    #[error("`{uri}` has a raw `{character}`, which would begin a query or fragment: write it as %{code:02X}", code = u32::from(*character))]
    Reserved {
        /// What was given, shortened.
        uri: String,
        /// The character.
        character: char,
    },
    /// The root folder or a path that ends where no file can be.
    #[error("`{0}` names no file")]
    NoFile(String),
    /// `s3://bucket` or `s3://bucket/` where an object is required.
    #[error("`{0}` names no object: write s3://bucket/key")]
    NoKey(String),
    /// The bucket's name has characters no bucket may have.
    #[error(
        "`{uri}` has the bucket name `{bucket}`: letters, digits, `.`, `-` and `_` are allowed, up to 255"
    )]
    Bucket {
        /// What was given, shortened.
        uri: String,
        /// The name found.
        bucket: String,
    },
    /// A key that is not UTF-8.
    #[error("`{0}` decodes to a key that is not UTF-8, as S3 requires")]
    KeyNotUtf8(String),
    /// A key or URI beyond its limit.
    #[error("`{uri}` is {bytes} bytes long; at most {limit} are allowed")]
    TooLong {
        /// What was given, shortened.
        uri: String,
        /// Its length (of the key, if the key is what is too long).
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The current folder, which relative archive folders start from, cannot be found.
    #[error("cannot make `{uri}` absolute: {reason}")]
    CurrentDir {
        /// What was given.
        uri: String,
        /// What the system says.
        reason: String,
    },
}

/// At most the first 120 characters, control characters escaped, for error messages.
fn shown(uri: &str) -> String {
    let mut text = String::new();
    for character in uri.chars().take(120) {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    if uri.chars().nth(120).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brings_every_spelling_into_one() {
        for (given, canonical) in [
            ("file:///a/b.jpg", "file:///a/b.jpg"),
            ("file:///a b/ü.jpg", "file:///a%20b/%C3%BC.jpg"),
            ("FILE://localhost/a//./b.jpg", "file:///a/b.jpg"),
            ("file:///%61/%7e/100%25", "file:///a/~/100%25"),
            ("file:///%FF", "file:///%FF"),
            ("file:///a/", "file:///a"),
            ("s3://bucket/a b+c", "s3://bucket/a%20b%2Bc"),
            ("S3://Old_Bucket.x/a//../b/", "s3://Old_Bucket.x/a//../b/"),
            ("s3://b//x", "s3://b//x"),
            ("s3://b/%3F%23%0A", "s3://b/%3F%23%0A"),
        ] {
            let parsed = ItemUri::parse(given).unwrap();
            assert_eq!(parsed.as_str(), canonical, "{given}");
            assert_eq!(ItemUri::parse(canonical).unwrap(), parsed, "{canonical} is canonical");
        }
    }

    #[test]
    fn refuses_what_is_no_picture_name() {
        type Check = fn(&UriError) -> bool;
        let cases: [(&str, Check); 22] = [
            ("", |error| matches!(error, UriError::NotAUri(_))),
            ("a.jpg", |error| matches!(error, UriError::NotAUri(_))),
            ("/a.jpg", |error| matches!(error, UriError::NotAUri(_))),
            ("http://host/a.jpg", |error| matches!(error, UriError::Scheme { .. })),
            ("gs://bucket/a.jpg", |error| matches!(error, UriError::Scheme { .. })),
            ("data:image/png;base64,xx", |error| matches!(error, UriError::NotAUri(_))),
            ("file:a.jpg", |error| matches!(error, UriError::Relative(_))),
            ("file:/a.jpg", |error| matches!(error, UriError::Relative(_))),
            ("file://./a.jpg", |error| matches!(error, UriError::Relative(_))),
            ("file://a.jpg", |error| matches!(error, UriError::Relative(_))),
            ("file://nas/share/a.jpg", |error| matches!(error, UriError::Host { .. })),
            ("file:///a/../b", |error| matches!(error, UriError::ParentSegment(_))),
            ("file:///a/%2e%2E/b", |error| matches!(error, UriError::ParentSegment(_))),
            ("file:///a%00b", |error| matches!(error, UriError::Nul(_))),
            ("s3://bucket/a%00b", |error| matches!(error, UriError::Nul(_))),
            ("file:///100%", |error| matches!(error, UriError::Percent(_))),
            ("s3://bucket/a%2", |error| matches!(error, UriError::Percent(_))),
            ("s3://bucket/a?versionId=1", |error| matches!(error, UriError::Reserved { character: '?', .. })),
            ("file:///a#b", |error| matches!(error, UriError::Reserved { character: '#', .. })),
            ("file:///", |error| matches!(error, UriError::NoFile(_))),
            ("s3://bucket/", |error| matches!(error, UriError::NoKey(_))),
            ("s3://bad bucket/a", |error| matches!(error, UriError::Bucket { .. })),
        ];
        for (given, is_right) in cases {
            let error = ItemUri::parse(given).unwrap_err();
            assert!(is_right(&error), "{given}: {error:?}");
        }
        assert!(matches!(ItemUri::parse("s3://b/%FF"), Err(UriError::KeyNotUtf8(_))));
        let long = format!("s3://b/{}", "x".repeat(MAX_KEY_BYTES + 1));
        assert!(matches!(ItemUri::parse(&long), Err(UriError::TooLong { bytes: 1025, .. })));
        let endless = format!("file:///{}", "x".repeat(MAX_URI_BYTES));
        assert!(matches!(ItemUri::parse(&endless), Err(UriError::TooLong { .. })));
        assert!(matches!(ItemUri::from_path(Path::new("a/b")), Err(UriError::Relative(_))));
    }

    #[test]
    fn error_messages_stay_one_short_line() {
        let error =
            ItemUri::parse(&format!("file://h\n\u{1b}[31m{}/a", "x".repeat(5000))).unwrap_err().to_string();
        assert!(error.len() < 600 && !error.chars().any(char::is_control), "{error}");
    }

    #[test]
    fn names_archives() {
        for (given, canonical) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/my photos//", "s3://bucket/my%20photos"),
            ("file:///archive/", "file:///archive"),
            ("/a/./b/", "file:///a/b"),
            ("/nowhere/at/all/../x", "file:///nowhere/at/x"),
        ] {
            let archive = ArchiveUri::parse(given).unwrap();
            assert_eq!(archive.as_str(), canonical, "{given}");
            assert_eq!(archive.is_local(), !given.starts_with("s3"));
        }
        let here = ArchiveUri::parse("some where").unwrap();
        let expected = std::env::current_dir().unwrap().join("some where");
        assert_eq!(here.location(), Location::File(expected));
        assert_eq!(
            ArchiveUri::parse("s3://b/a%20b/c").unwrap().location(),
            Location::S3 { bucket: "b".into(), key: "a b/c".into() }
        );
        for bad in
            ["", "gs://b/x", "https://b/x", "file://nas/x", "file:///a/../b", "s3://", "s3:///x", "file:x"]
        {
            assert!(ArchiveUri::parse(bad).is_err(), "{bad}");
        }
        assert!(ArchiveUri::from_uri("relative/folder").is_err(), "messages carry URIs only");
    }

    #[test]
    fn resolves_parents_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink(real.join("a/b"), real.join("link")).unwrap();
        let archive = ArchiveUri::from_folder(&real.join("link/../archive")).unwrap();
        assert_eq!(archive.location(), Location::File(real.join("a/archive")));
    }

    proptest! {
        #[test]
        fn any_path_comes_back(bytes in proptest::collection::vec(1_u8..=255, 1..60)) {
            let path = PathBuf::from(OsString::from_vec([b"/", &bytes[..]].concat()));
            match ItemUri::from_path(&path) {
                Ok(uri) => {
                    prop_assert!(uri.as_str().is_ascii());
                    // Components are how paths are compared: without doubled slashes and dots.
                    let there = Location::File(path.components().collect());
                    prop_assert_eq!(uri.location(), there);
                    prop_assert_eq!(ItemUri::parse(uri.as_str()).unwrap(), uri);
                }
                Err(UriError::ParentSegment(_) | UriError::NoFile(_)) => {}
                Err(error) => prop_assert!(false, "{}", error),
            }
        }

        #[test]
        fn any_key_comes_back(key in "[^\0]{1,200}") {
            let uri = ItemUri::s3("bucket", &key);
            prop_assert!(uri.as_str().is_ascii());
            prop_assert_eq!(uri.location(), Location::S3 { bucket: "bucket".into(), key });
            prop_assert_eq!(ItemUri::parse(uri.as_str()).unwrap(), uri);
        }

        #[test]
        fn parsing_settles(text in "(file://|s3://|FILE:///|s3://b/|)(.|%2e|%|/|\\.\\.){0,30}") {
            if let Ok(uri) = ItemUri::parse(&text) {
                prop_assert_eq!(ItemUri::parse(uri.as_str()).unwrap(), uri);
            }
            if let Ok(archive) = ArchiveUri::from_uri(&text) {
                prop_assert_eq!(ArchiveUri::from_uri(archive.as_str()).unwrap(), archive);
            }
        }
    }
}
