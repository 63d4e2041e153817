//! One source as it is given on the command line.

use super::CatalogError;
use captionfleet_proto::uri::{ItemUri, Location};
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

/// Where items come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, a folder or a pattern; which of them shows when it is listed.
    Local(PathBuf),
    /// Objects of a bucket.
    Objects(Objects),
}

/// Objects of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// The bucket's name.
    pub bucket: String,
    /// As given after the bucket: an object, a folder-like prefix, or a pattern.
    pub key: String,
}

impl Source {
    /// Understands one argument.
    ///
    /// `s3://bucket/prefix` is taken literally (a key is not percent-decoded); `file:///…` is a percent-encoded path.
    pub fn parse(argument: &OsStr) -> Result<Self, CatalogError> {
        let Some(text) = argument.to_str() else {
            return Ok(Self::Local(PathBuf::from(argument)));
        };
        let scheme = || CatalogError::Scheme { location: text.to_owned() };
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(scheme());
            }
            return Ok(Self::Objects(Objects { bucket: bucket.to_owned(), key: key.to_owned() }));
        }
        if text.starts_with("file://") {
            let uri = ItemUri::parse(text).map_err(|error| CatalogError::Name {
                location: text.to_owned(),
                reason: error.to_string(),
            })?;
            return match uri.location() {
                Location::File(path) => Ok(Self::Local(path)),
                Location::S3 { .. } => Err(scheme()),
            };
        }
        if has_scheme(text) {
            return Err(scheme());
        }
        if text.is_empty() {
            return Err(CatalogError::Scheme { location: "a source without a name".to_owned() });
        }
        Ok(Self::Local(PathBuf::from(text)))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(formatter),
            Self::Objects(Objects { bucket, key }) => write!(formatter, "s3://{bucket}/{key}"),
        }
    }
}

/// Whether `text` begins like `https://`.
fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// Whether `text` has a character that means something in a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::{Objects, Source};
    use std::ffi::OsStr;
    use std::path::PathBuf;

    fn parse(text: &str) -> Result<Source, super::CatalogError> {
        Source::parse(OsStr::new(text))
    }

    #[test]
    fn s3_keys_are_taken_literally() {
        let expected = Objects { bucket: "b".into(), key: "a%20b/ü".into() };
        assert_eq!(parse("s3://b/a%20b/ü").ok(), Some(Source::Objects(expected)));
        assert_eq!(
            parse("s3://b").ok(),
            Some(Source::Objects(Objects { bucket: "b".into(), key: String::new() }))
        );
    }

    #[test]
    fn file_uris_are_decoded() {
        assert_eq!(parse("file:///a%20b").ok(), Some(Source::Local(PathBuf::from("/a b"))));
    }

    #[test]
    fn other_schemes_are_refused() {
        for text in ["https://example.org/a.jpg", "ftp://x", "s3://", "s3:///key"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("odd:name.jpg").is_ok());
        let told = parse("").map_err(|error| error.to_string());
        assert!(told.is_err_and(|told| told.contains("without a name")));
    }
}
