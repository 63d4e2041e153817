//! The name of an archive: a folder or a place in a bucket.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::item::{Location, Scheme, file_path, s3_parts, split_scheme, tidy};
use super::percent::encode;
use super::{MAX_URI_BYTES, UriError, shown};

/// Where an archive lives: `file:///absolute/folder` or `s3://bucket[/prefix]`.
///
/// Users may also give a plain path ([`ArchiveUri::parse`]); messages carry URIs only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveUri {
    uri: String,
    location: Location,
}

impl ArchiveUri {
    /// Reads what a user typed: a URI, or the path of a folder, which is made absolute.
    pub fn parse(given: &str) -> Result<Self, UriError> {
        if given.contains("://") || given.starts_with("file:") {
            return Self::from_uri(given);
        }
        if given.is_empty() {
            return Err(UriError::NotAUri(String::new()));
        }
        Self::from_folder(Path::new(given))
    }

    /// Reads a URI as messages carry it.
    pub fn from_uri(uri: &str) -> Result<Self, UriError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(UriError::TooLong { uri: shown(uri), bytes: uri.len(), limit: MAX_URI_BYTES });
        }
        let (scheme, rest) = split_scheme(uri)?;
        match scheme {
            Scheme::File => Ok(Self::folder(tidy(&file_path(rest, uri)?)?)),
            Scheme::S3 => {
                let (bucket, prefix) = s3_parts(rest, uri)?;
                let prefix = prefix.trim_matches('/');
                let tail =
                    if prefix.is_empty() { String::new() } else { format!("/{}", encode(prefix.as_bytes())) };
                Ok(Self {
                    uri: format!("s3://{bucket}{tail}"),
                    location: Location::S3 { bucket: bucket.to_owned(), key: prefix.to_owned() },
                })
            }
        }
    }

    /// Names a folder; a relative one starts from the current folder, and `..` is resolved.
    pub fn from_folder(path: &Path) -> Result<Self, UriError> {
        let absolute = std::path::absolute(path).map_err(|error| UriError::CurrentDir {
            uri: shown(&path.to_string_lossy()),
            reason: error.to_string(),
        })?;
        Ok(Self::folder(tidy(&without_parents(&absolute))?))
    }

    fn folder(path: PathBuf) -> Self {
        let uri = format!("file://{}", encode(path.as_os_str().as_bytes()));
        Self { uri, location: Location::File(path) }
    }

    /// The canonical spelling, ASCII only.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Where the objects are: a folder that need not exist yet, or a bucket and what all keys in it begin with
    /// (no slash at either end; empty for the whole bucket).
    pub fn location(&self) -> Location {
        self.location.clone()
    }

    /// Whether the archive is a folder of this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.location, Location::File(_))
    }
}

/// Resolves `..` as the file system would: through links where the folder exists, by name where it does not.
fn without_parents(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            if let Ok(real) = resolved.canonicalize() {
                resolved = real;
            }
            resolved.pop();
        } else {
            resolved.push(component);
        }
    }
    resolved
}

impl JsonSchema for ArchiveUri {
    fn schema_name() -> Cow<'static, str> {
        "ArchiveUri".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An archive: `file:///absolute/folder` or `s3://bucket[/prefix]`, percent-encoded.",
            "type": "string",
            "maxLength": MAX_URI_BYTES,
            "pattern": "^([Ff][Ii][Ll][Ee]://(localhost)?/|[Ss]3://[A-Za-z0-9._-]{1,255}(/|$))[^?#]*$",
        })
    }
}

impl fmt::Display for ArchiveUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl From<ArchiveUri> for String {
    fn from(archive: ArchiveUri) -> Self {
        archive.uri
    }
}

impl TryFrom<String> for ArchiveUri {
    type Error = UriError;

    fn try_from(uri: String) -> Result<Self, UriError> {
        Self::from_uri(&uri)
    }
}

impl FromStr for ArchiveUri {
    type Err = UriError;

    fn from_str(given: &str) -> Result<Self, UriError> {
        Self::parse(given)
    }
}
