//! Pictures that people search by or ask about: kept for a day, by content.

use super::http::problem::Problem;
use axum::http::StatusCode;
use bytes::Bytes;
use captionfleet_proto::job::JobItem;
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, StorageError, StorageErrorKind};
use captionfleet_proto::uri::ArchiveUri;
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::staging::address;

/// How long a picture is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Keeps a picture; its name.
pub async fn keep(archive: &dyn Storage, bytes: Bytes) -> Result<String, Problem> {
    if !super::media::is_picture(&bytes) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body is no picture that can be read: send a JPEG, PNG, GIF, WebP, TIFF, BMP, ICO or PNM file",
        ));
    }
    let sha256 = hex::encode(Sha256::digest(&bytes));
    archive.put(&layout::query_image(&sha256), bytes, PutMode::Overwrite).await?;
    Ok(sha256)
}

/// A kept picture as an item.
pub fn item(uri: &ArchiveUri, sha256: &str) -> Result<JobItem, Problem> {
    if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Problem::bad(
            "upload: not the name of an uploaded picture; POST /api/v1/uploads answers with one",
        ));
    }
    let mut item = JobItem::new(address(uri, &layout::query_image(sha256)));
    item.sha256 = Some(sha256.to_owned());
    Ok(item)
}

/// The same, if it is kept still.
pub async fn kept(archive: &dyn Storage, uri: &ArchiveUri, sha256: &str) -> Result<JobItem, Problem> {
    let item = item(uri, sha256)?;
    match archive.head(&layout::query_image(sha256)).await {
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            Err(Problem::missing("upload: this picture is not kept any more; upload it again"))
        }
        looked => Ok(looked.map(|_| item)?),
    }
}

/// Removes what was kept long enough.
pub async fn tidy(archive: &dyn Storage) -> Result<u64, StorageError> {
    let before = Timestamp::now() - KEPT;
    let mut old = Vec::new();
    {
        let mut listing = archive.list(layout::QUERIES_PREFIX);
        while let Some(object) = listing.try_next().await? {
            old.extend(object.modified.is_some_and(|at| at < before).then_some(object.key));
        }
    }
    for key in &old {
        archive.delete(key).await?;
    }
    Ok(old.len() as u64)
}
