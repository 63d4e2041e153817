//! The name of one picture.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::percent::{decode, encode};
use super::{MAX_KEY_BYTES, MAX_URI_BYTES, UriError, shown};

/// `file:///absolute/path` or `s3://bucket/key` in its one canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ItemUri(String);

/// Where a picture's bytes are, decoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// An absolute path on this machine.
    File(PathBuf),
    /// An object.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The object's key, as S3 knows it.
        key: String,
    },
}

impl ItemUri {
    /// Checks a URI and brings it into its canonical spelling.
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(UriError::TooLong { uri: shown(uri), bytes: uri.len(), limit: MAX_URI_BYTES });
        }
        let (scheme, rest) = split_scheme(uri)?;
        match scheme {
            Scheme::File => Self::from_path(&file_path(rest, uri)?),
            Scheme::S3 => {
                let (bucket, key) = s3_parts(rest, uri)?;
                if key.is_empty() {
                    return Err(UriError::NoKey(shown(uri)));
                }
                Ok(Self::s3(bucket, &key))
            }
        }
    }

    /// Names a local file. `path` must be absolute and free of `..`; `.` and doubled separators vanish.
    pub fn from_path(path: &Path) -> Result<Self, UriError> {
        let path = tidy(path)?;
        if path == Path::new("/") {
            return Err(UriError::NoFile("file:///".to_owned()));
        }
        Ok(Self(format!("file://{}", encode(path.as_os_str().as_bytes()))))
    }

    /// Names an object whose bucket and key are already known to be good, as those that a listing returns are.
    pub fn s3(bucket: &str, key: &str) -> Self {
        Self(format!("s3://{bucket}/{}", encode(key.as_bytes())))
    }

    /// The canonical spelling, ASCII only.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the bytes are.
    pub fn location(&self) -> Location {
        let decoded = |part: &str| percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
        if let Some(path) = self.0.strip_prefix("file://") {
            return Location::File(PathBuf::from(OsString::from_vec(decoded(path))));
        }
        let rest = self.0.strip_prefix("s3://").unwrap_or(&self.0);
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Location::S3 { bucket: bucket.to_owned(), key: String::from_utf8_lossy(&decoded(key)).into_owned() }
    }

    /// Whether the picture is a file of this machine.
    pub fn is_local(&self) -> bool {
        self.0.starts_with("file:")
    }
}

/// The two schemes that are read.
pub(super) enum Scheme {
    File,
    S3,
}

/// Splits `scheme://rest`.
pub(super) fn split_scheme(uri: &str) -> Result<(Scheme, &str), UriError> {
    if let Some((scheme, rest)) = uri.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "file" => Ok((Scheme::File, rest)),
            "s3" => Ok((Scheme::S3, rest)),
            _ => Err(UriError::Scheme { uri: shown(uri), scheme: shown(scheme) }),
        };
    }
    match uri.split_once(':') {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("file") => Err(UriError::Relative(shown(uri))),
        _ => Err(UriError::NotAUri(shown(uri))),
    }
}

/// The path in what follows `file://`, still with whatever dots and slashes it has.
pub(super) fn file_path(rest: &str, uri: &str) -> Result<PathBuf, UriError> {
    let Some(slash) = rest.find('/') else {
        return Err(UriError::Relative(shown(uri)));
    };
    let (host, path) = rest.split_at(slash);
    if host.starts_with('.') || host == "~" {
        return Err(UriError::Relative(shown(uri)));
    }
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
        return Err(UriError::Host { uri: shown(uri), host: shown(host) });
    }
    Ok(PathBuf::from(OsStr::from_bytes(&decode(path, uri)?)))
}

/// Bucket and decoded key (perhaps empty) in what follows `s3://`.
pub(super) fn s3_parts<'a>(rest: &'a str, uri: &str) -> Result<(&'a str, String), UriError> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !(1..=255).contains(&bucket.len()) || !bucket.chars().all(allowed) || matches!(bucket, "." | "..") {
        return Err(UriError::Bucket { uri: shown(uri), bucket: shown(bucket) });
    }
    let key = String::from_utf8(decode(key, uri)?).map_err(|_| UriError::KeyNotUtf8(shown(uri)))?;
    if key.len() > MAX_KEY_BYTES {
        return Err(UriError::TooLong { uri: shown(uri), bytes: key.len(), limit: MAX_KEY_BYTES });
    }
    Ok((bucket, key))
}

/// An absolute path without `.`, doubled or trailing separators; refuses `..`, relative paths and NUL.
pub(super) fn tidy(path: &Path) -> Result<PathBuf, UriError> {
    let shown_path = || shown(&path.to_string_lossy());
    if !path.is_absolute() {
        return Err(UriError::Relative(shown_path()));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(UriError::Nul(shown_path()));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(UriError::ParentSegment(shown_path()));
    }
    Ok(path.components().collect())
}

impl JsonSchema for ItemUri {
    fn schema_name() -> Cow<'static, str> {
        "ItemUri".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A picture: `file:///absolute/path` or `s3://bucket/key`, percent-encoded.",
            "type": "string",
            "maxLength": MAX_URI_BYTES,
            "pattern": "^([Ff][Ii][Ll][Ee]://(localhost)?/|[Ss]3://[A-Za-z0-9._-]{1,255}/)[^?#]+$",
        })
    }
}

impl fmt::Display for ItemUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ItemUri {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<ItemUri> for String {
    fn from(uri: ItemUri) -> Self {
        uri.0
    }
}

impl TryFrom<String> for ItemUri {
    type Error = UriError;

    fn try_from(uri: String) -> Result<Self, UriError> {
        Self::parse(&uri)
    }
}

impl FromStr for ItemUri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        Self::parse(uri)
    }
}
