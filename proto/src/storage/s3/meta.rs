//! What the service tells about an object, in our terms.

use aws_sdk_s3::primitives::DateTime;
use jiff::Timestamp;

use crate::storage::ObjectMeta;

/// A size that is missing or nonsense counts as none.
pub(super) fn object_meta(
    key: String,
    size: Option<i64>,
    etag: Option<&str>,
    modified: Option<&DateTime>,
) -> ObjectMeta {
    let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    ObjectMeta { key, size, etag: etag.map(bare), modified: modified.and_then(timestamp) }
}

/// An entity tag without its quotes.
pub(super) fn bare(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}
