//! A film as bytes, piece by piece, for a player that jumps about in it.

use super::ending;
use crate::serve::Ground;
use crate::serve::http::problem::Problem;
use axum::http::StatusCode;
use bytes::Bytes;
use captionfleet_proto::layout;
use captionfleet_proto::rows::{Row, Status};
use captionfleet_proto::storage::{Storage, StorageErrorKind};
use captionfleet_proto::uri::Location;
use captionfleet_worker::video::is_video_name;
use futures::Stream;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// A film that can be read.
#[derive(Debug, Clone)]
pub struct Film {
    place: Place,
    /// Its bytes.
    pub size: u64,
    /// Its media type, by its name.
    pub kind: &'static str,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Object(Arc<dyn Storage>, String),
}

/// Which bytes of a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first.
    pub start: u64,
    /// One after the last.
    pub end: u64,
}

impl Film {
    /// The film of a frame that was captioned.
    pub async fn open(ground: &Ground, row: &Row) -> Result<Self, Problem> {
        let name = row.item.as_str();
        if row.frame_ms.is_none() || row.status != Status::Ok || !is_video_name(name) {
            return Err(Problem::missing(format!("{name} is no captioned frame of a film")));
        }
        let kind = kind(name);
        if let Some(sha256) =
            row.sha256.as_ref().filter(|_| ground.settings.is_remote() && row.item.is_local())
        {
            let key = layout::staged(sha256);
            match ground.archive.head(&key).await {
                Ok(object) => {
                    return Ok(Self {
                        place: Place::Object(ground.archive.clone(), key),
                        size: object.size,
                        kind,
                    });
                }
                Err(error) if error.kind() == StorageErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        match row.item.location() {
            Location::S3 { bucket, key } => {
                let store = ground.fleet.stores.bucket(&bucket).await?;
                let object = store.head(&key).await?;
                if row.etag.is_some() && object.etag.is_some() && row.etag != object.etag {
                    return Err(changed(name));
                }
                Ok(Self { place: Place::Object(store, key), size: object.size, kind })
            }
            Location::File(_) => {
                let path = ground.fleet.stores.local_path(&row.item).await?;
                let path = path.ok_or_else(|| Problem::missing(format!("{name} is not here")))?;
                let file = path.clone();
                let found = tokio::task::spawn_blocking(move || {
                    let metadata = file.metadata()?;
                    Ok::<_, std::io::Error>((
                        metadata.len(),
                        captionfleet_proto::storage::etag_of_file(&metadata),
                    ))
                });
                let (size, etag) = found
                    .await
                    .map_err(|_| ending())?
                    .map_err(|error| Problem::missing(format!("{name} cannot be read: {error}")))?;
                if row.etag.as_ref().is_some_and(|known| *known != etag) {
                    return Err(changed(name));
                }
                Ok(Self { place: Place::File(path), size, kind })
            }
        }
    }

    /// The bytes of a piece.
    pub fn read(self, piece: Piece) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
        futures::stream::try_unfold(piece.start, move |at| {
            let place = self.place.clone();
            async move {
                let length = piece.end.saturating_sub(at).min(PIECE);
                if length == 0 {
                    return Ok(None);
                }
                let bytes = place.read(at, length).await?;
                if bytes.is_empty() {
                    return Err(std::io::Error::other("the film became shorter"));
                }
                let next = at + bytes.len() as u64;
                Ok(Some((bytes, next)))
            }
        })
    }
}

impl Place {
    async fn read(&self, offset: u64, length: u64) -> Result<Bytes, std::io::Error> {
        match self {
            Self::Object(store, key) => {
                let object = store.get_range(key, offset, length).await.map_err(std::io::Error::other)?;
                Ok(object.bytes)
            }
            Self::File(path) => {
                let path = path.clone();
                let read = move || {
                    let mut file = std::fs::File::open(path)?;
                    file.seek(SeekFrom::Start(offset))?;
                    let mut bytes = Vec::with_capacity(length as usize);
                    file.take(length).read_to_end(&mut bytes)?;
                    Ok(Bytes::from(bytes))
                };
                tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
            }
        }
    }
}

impl Piece {
    /// What a `Range` header asks of so many bytes: `None` for all of them. Several ranges are answered with all.
    pub fn asked(header: Option<&str>, size: u64) -> Result<Option<Self>, Problem> {
        let range =
            header.and_then(|header| header.strip_prefix("bytes=")).filter(|range| !range.contains(','));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else { return Ok(None) };
        let (first, last) = (first.trim(), last.trim());
        let number = |text: &str| text.parse::<u64>().ok();
        let piece = match (number(first), number(last)) {
            (Some(start), Some(last)) if last >= start => {
                Self { start, end: last.saturating_add(1).min(size) }
            }
            (Some(start), None) if last.is_empty() => Self { start, end: size },
            (None, Some(count)) if first.is_empty() => Self { start: size.saturating_sub(count), end: size },
            _ => return Ok(None),
        };
        if piece.start >= piece.end {
            return Err(Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                format!("the film has {size} bytes"),
            ));
        }
        Ok(Some(piece))
    }
}

fn changed(name: &str) -> Problem {
    let detail = format!("{name} has changed since it was captioned; caption it again to see it");
    Problem::new(StatusCode::NOT_FOUND, "changed", detail)
}

/// The media type that browsers play a file with such a name as.
fn kind(name: &str) -> &'static str {
    let extension =
        name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "webm" => "video/webm",
        "ogv" | "ogm" => "video/ogg",
        "mkv" => "video/x-matroska",
        "mp4" | "m4v" | "mov" | "qt" | "f4v" | "3gp" | "3g2" => "video/mp4",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Piece;

    #[test]
    fn ranges_are_understood() {
        let asked = |header| Piece::asked(Some(header), 100);
        assert_eq!(asked("bytes=0-9").unwrap(), Some(Piece { start: 0, end: 10 }));
        assert_eq!(asked("bytes=90-").unwrap(), Some(Piece { start: 90, end: 100 }));
        assert_eq!(asked("bytes=-10").unwrap(), Some(Piece { start: 90, end: 100 }));
        assert_eq!(asked("bytes=0-18446744073709551615").unwrap(), Some(Piece { start: 0, end: 100 }));
        for odd in ["bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=5-2", "bytes=-"] {
            assert_eq!(asked(odd).unwrap(), None, "{odd}");
        }
        assert!(asked("bytes=100-").is_err() && asked("bytes=-0").is_err());
        assert_eq!(Piece::asked(None, 100).unwrap(), None);
    }
}
