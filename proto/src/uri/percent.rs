//! Percent-encoding of paths and keys.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::{UriError, shown};

/// Everything but RFC 3986's unreserved characters and the separator.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

pub(super) fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, ENCODED).to_string()
}

/// Decodes the part of `uri` after the authority; refuses what could be meant in two ways.
pub(super) fn decode(part: &str, uri: &str) -> Result<Vec<u8>, UriError> {
    if let Some(character) = part.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(UriError::Reserved { uri: shown(uri), character });
    }
    let bytes = part.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        if !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(UriError::Percent(shown(uri)));
        }
    }
    let decoded: Vec<u8> = percent_decode_str(part).collect();
    if decoded.contains(&0) {
        return Err(UriError::Nul(shown(uri)));
    }
    Ok(decoded)
}
