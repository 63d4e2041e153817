//! Names of runs and jobs.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::JobItem;

/// Longest id, in characters.
pub const MAX_ID_CHARS: usize = 80;

/// Why a string cannot name a run or a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{shown}` cannot be a {what} id: 1 to 80 of the characters A-Z a-z 0-9 . _ -, not beginning with a dot"
)]
pub struct IdError {
    what: &'static str,
    shown: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes an id.
            pub fn new(id: impl Into<String>) -> Result<Self, IdError> {
                let id = id.into();
                if is_valid(&id) {
                    Ok(Self(id))
                } else {
                    Err(IdError { what: $what, shown: id.escape_debug().take(100).collect() })
                }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(id: String) -> Result<Self, IdError> {
                Self::new(id)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(id: &str) -> Result<Self, IdError> {
                Self::new(id)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": concat!("Id of a ", $what, "."),
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}$",
                })
            }
        }
    };
}

id!(
    /// Names a job inside its run, and its part in the archive: `[A-Za-z0-9._-]`, 1 to 80 characters.
    JobId,
    "job"
);
id!(
    /// Names a run inside its archive: `[A-Za-z0-9._-]`, 1 to 80 characters, not beginning with a dot.
    RunId,
    "run"
);

fn is_valid(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// `OOOOOOOO-HHHHHHHHHHHHHHHH`: the ordinal, then a digest of everything that decides what the rows will say.
pub(super) fn of_slice(run: &RunId, ordinal: u64, items: &[JobItem], prompt_hash: &str) -> JobId {
    let mut digest = Sha256::new();
    // Every field is written with its length, so that no two different slices feed the same bytes.
    let mut field = |value: Option<&[u8]>| {
        digest.update([u8::from(value.is_some())]);
        let value = value.unwrap_or_default();
        digest.update((value.len() as u64).to_le_bytes());
        digest.update(value);
    };
    let text = |value: &Option<String>| value.as_deref().map(|text| text.as_bytes().to_vec());
    let number = |value: Option<u64>| value.map(u64::to_le_bytes);
    field(Some(run.as_str().as_bytes()));
    field(Some(&ordinal.to_le_bytes()));
    field(Some(prompt_hash.as_bytes()));
    for item in items {
        field(Some(item.uri.as_str().as_bytes()));
        field(text(&item.etag).as_deref());
        field(text(&item.sha256).as_deref());
        for value in [item.size, item.frame_ms, item.span_ms] {
            field(number(value).as_ref().map(<[u8; 8]>::as_slice));
        }
        // Only where there is one, so that jobs of pictures keep the ids that they always had.
        if let Some(sample) = &item.sample {
            field(serde_json::to_vec(sample).ok().as_deref());
        }
        if !item.questions.is_empty() {
            field(serde_json::to_vec(&item.questions).ok().as_deref());
        }
    }
    let digest = hex::encode(digest.finalize());
    JobId(format!("{ordinal:08}-{}", &digest[..16]))
}
