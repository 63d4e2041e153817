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
