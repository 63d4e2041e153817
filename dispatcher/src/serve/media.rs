//! Pictures and films for people to look at. Only what a row of the archive names is read, and a picture is only shown if
//! its bytes are those that the row was made from, and decode as a picture: nothing else of a machine can be got this way.

mod film;
mod shelf;

pub use film::{Film, Piece};

use super::Ground;
use super::http::problem::Problem;
use axum::http::StatusCode;
use bytes::Bytes;
use captionfleet_model::preprocess::{DecodeLimits, decode};
use captionfleet_proto::job::JobItem;
use captionfleet_proto::layout;
use captionfleet_proto::rows::Row;
use captionfleet_proto::storage::{StorageError, StorageErrorKind};
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::video::small_jpeg;
use sha2::{Digest as _, Sha256};
use shelf::Shelf;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::staging::readable;

/// Largest picture that is read.
const MOST_BYTES: u64 = 64 << 20;
/// Pictures that are decoded at a time: the largest take several hundred megabytes.
const AT_ONCE: usize = 3;

/// How large a picture is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// For galleries.
    Small,
    /// For looking at.
    Large,
}

impl Size {
    fn side(self) -> u32 {
        match self {
            Self::Small => 320,
            Self::Large => 1600,
        }
    }
}

/// Reads and shrinks pictures, and keeps the small ones.
#[derive(Debug)]
pub struct Media {
    room: Arc<Semaphore>,
    shelf: Shelf,
}

impl Default for Media {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)), shelf: Shelf::default() }
    }
}

/// A JPEG and the name of its content.
#[derive(Debug, Clone)]
pub struct Jpeg {
    /// Its bytes.
    pub bytes: Bytes,
    /// An entity tag without quotes.
    pub tag: String,
}

impl Media {
    /// The picture of a row: the picture itself, or the frame as it was kept.
    pub async fn picture(&self, ground: &Ground, row: &Row, size: Size) -> Result<Jpeg, Problem> {
        if let Some(frame_ms) = row.frame_ms {
            return frame(ground, &row.item, frame_ms, content(row)).await;
        }
        let Some(sha256) = &row.sha256 else {
            return Err(Problem::missing(format!("{} could not be read when its row was made", row.item)));
        };
        let tag = format!("{sha256}-{}", size.side());
        if let Some(bytes) = self.shelf.get(&tag) {
            return Ok(Jpeg { bytes, tag });
        }
        let seat = self.seat().await?;
        // Someone else may have asked for the same meanwhile.
        if let Some(bytes) = self.shelf.get(&tag) {
            return Ok(Jpeg { bytes, tag });
        }
        let bytes = original(ground, &row.item, sha256).await?;
        let bytes = shrunk(seat, bytes, sha256.clone(), size.side(), row.item.to_string()).await?;
        self.shelf.put(&tag, &bytes);
        Ok(Jpeg { bytes, tag })
    }

    async fn seat(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.room.clone().acquire_owned().await.map_err(|_| ending())
    }

    /// An uploaded picture.
    pub async fn upload(&self, ground: &Ground, sha256: &str, size: Size) -> Result<Jpeg, Problem> {
        let seat = self.seat().await?;
        let object = ground.archive.get(&layout::query_image(sha256), MOST_BYTES).await?;
        let bytes =
            shrunk(seat, object.bytes, sha256.to_owned(), size.side(), "the uploaded picture".to_owned())
                .await?;
        Ok(Jpeg { bytes, tag: format!("{sha256}-{}", size.side()) })
    }
}

/// Whether bytes begin as a picture of a kind that can be decoded.
pub fn is_picture(bytes: &[u8]) -> bool {
    // A limit of nothing is told only after the kind is known, before anything is decoded.
    let limits = DecodeLimits { max_pixels: 0, ..DecodeLimits::default() };
    match decode(bytes, &limits) {
        Ok(_) => true,
        Err(error) => !matches!(error.code(), "unsupported_format" | "empty" | "too_large"),
    }
}

/// The item as a worker can read it: a frame as it was kept, a staged file as its copy.
pub async fn item_of(ground: &Ground, row: &Row) -> Result<JobItem, Problem> {
    let (remote, sha256) = (ground.settings.is_remote(), row.sha256.as_deref());
    let frame = row.frame_ms.map(|frame_ms| (frame_ms, content(row)));
    let item = readable(&*ground.archive, &ground.uri, remote, &row.item, frame, sha256).await?;
    item.ok_or_else(|| not_kept(&row.item))
}

fn content(row: &Row) -> u64 {
    layout::content_key(row.sha256.as_deref(), row.etag.as_deref())
}

async fn frame(ground: &Ground, item: &ItemUri, frame_ms: u64, content: u64) -> Result<Jpeg, Problem> {
    let key = layout::thumbnail(item, content, frame_ms);
    match ground.archive.get(&key, MOST_BYTES).await {
        Ok(object) => {
            Ok(Jpeg { tag: hex::encode(&Sha256::digest(&object.bytes)[..16]), bytes: object.bytes })
        }
        Err(error) if error.kind() == StorageErrorKind::NotFound => Err(not_kept(item)),
        Err(error) => Err(error.into()),
    }
}

fn not_kept(item: &ItemUri) -> Problem {
    Problem::missing(format!(
        "the frames of {item} were not kept; caption it with --thumbnails for pictures of them"
    ))
}

/// The bytes of a picture, if they still are what its row was made from.
async fn original(ground: &Ground, item: &ItemUri, sha256: &str) -> Result<Bytes, Problem> {
    let bytes = match staged(ground, item, sha256).await? {
        Some(bytes) => bytes,
        None => ground.fleet.stores.read_item(item, MOST_BYTES).await?.bytes,
    };
    let (bytes, found) = tokio::task::spawn_blocking(move || {
        let found = hex::encode(Sha256::digest(&bytes));
        (bytes, found)
    })
    .await
    .map_err(|_| ending())?;
    if found == sha256 {
        return Ok(bytes);
    }
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "changed",
        format!("{item} has changed since it was captioned; caption it again to see it"),
    ))
}

/// The copy of a local picture that was made for a fleet, if there is one.
async fn staged(ground: &Ground, item: &ItemUri, sha256: &str) -> Result<Option<Bytes>, StorageError> {
    if !(item.is_local() && ground.settings.is_remote()) {
        return Ok(None);
    }
    match ground.archive.get(&layout::staged(sha256), MOST_BYTES).await {
        Ok(object) => Ok(Some(object.bytes)),
        Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn shrunk(
    seat: OwnedSemaphorePermit,
    bytes: Bytes,
    sha256: String,
    side: u32,
    name: String,
) -> Result<Bytes, Problem> {
    let work = move || {
        let picture = decode(&bytes, &DecodeLimits::default()).map_err(|error| {
            let detail = format!("{name} cannot be shown: {error}");
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "no_picture", detail)
        })?;
        small_jpeg(&picture.rgb, picture.width, picture.height, side).map(Bytes::from).ok_or_else(|| {
            Problem::new(StatusCode::BAD_GATEWAY, "no_picture", format!("{sha256} cannot be shrunk"))
        })
    };
    seated(seat, work).await?
}

/// Does what takes a seat until it is done, also when nobody waits for it any more: a thread cannot be stopped, and clients
/// that come and go would have as many pictures in memory as they like.
async fn seated<T: Send + 'static>(
    seat: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let seated = move || {
        let _seat = seat;
        work()
    };
    tokio::task::spawn_blocking(seated).await.map_err(|_| ending())
}

fn ending() -> Problem {
    Problem::unavailable("ending", "this service is being stopped")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{is_picture, seated};
    use futures::FutureExt as _;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn who_leaves_makes_no_room_before_the_work_is_done() {
        let room = Arc::new(Semaphore::new(1));
        let (done, waiting) = std::sync::mpsc::channel::<()>();
        let seat = room.clone().acquire_owned().await.unwrap();
        let left = seated(seat, move || waiting.recv().is_err()).now_or_never();
        assert!(left.is_none());
        assert_eq!(room.available_permits(), 0);
        drop(done);
        drop(room.acquire().await.unwrap());
    }

    #[test]
    fn what_is_no_picture_is_not_taken_for_one() {
        assert!(!is_picture(b"") && !is_picture(b"root:x:0:0") && !is_picture(b"<svg/>"));
        assert!(is_picture(&[0xff, 0xd8, 0xff, 0xe0, 0, 16]));
    }
}
