//! The telling parts of a video in a bucket, in a file full of holes.

use captionfleet_proto::storage::{Storage, Stores};
use captionfleet_proto::uri::{ItemUri, Location};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Bytes of the beginning: headers of all containers but MP4's index.
const HEAD: u64 = 2 << 20;
/// Bytes of the end: the last packets, by which streams without a header are measured.
const TAIL: u64 = 1 << 20;
/// Most bytes of an MP4's index.
const MOST_INDEX: u64 = 64 << 20;
/// Most boxes of an MP4 that are walked over.
const MOST_BOXES: usize = 64;
/// Bytes that are asked for at a time.
const PIECE: u64 = 8 << 20;

/// A file as long as the video, of which only parts are there.
pub(super) struct Outline {
    file: NamedTempFile,
    store: Arc<dyn Storage>,
    key: String,
    size: u64,
}

impl Outline {
    /// Copies what tells the length of the video at `uri`.
    pub(super) async fn fetch(uri: &ItemUri, stores: &Stores) -> anyhow::Result<Self> {
        let Location::S3 { bucket, key } = uri.location() else { anyhow::bail!("{uri} is not in a bucket") };
        let store = stores.bucket(&bucket).await?;
        let size = store.head(&key).await?.size;
        let file = NamedTempFile::with_prefix("captionfleet-header-")?;
        file.as_file().set_len(size)?;
        let outline = Self { file, store, key, size };
        outline.fill(0, HEAD).await?;
        outline.fill(size.saturating_sub(TAIL), TAIL).await?;
        if let Some((start, length)) = outline.index().await? {
            outline.fill(start, length.min(MOST_INDEX)).await?;
        }
        Ok(outline)
    }

    /// Where the file is, for as long as this lives.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Bytes of the whole video.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Copies a part of the video, as much of it as there is.
    pub(super) async fn fill(&self, start: u64, length: u64) -> anyhow::Result<()> {
        let end = start.saturating_add(length).min(self.size);
        let mut at = start;
        while at < end {
            let piece = self.store.get_range(&self.key, at, PIECE.min(end - at)).await?.bytes;
            anyhow::ensure!(!piece.is_empty(), "the object became shorter");
            let mut file = self.file.as_file();
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Where an MP4 keeps its index (`moov`): behind all pictures, in files that were not made for streaming.
    async fn index(&self) -> anyhow::Result<Option<(u64, u64)>> {
        let mut at = 0;
        for _ in 0..MOST_BOXES {
            if at + 16 > self.size {
                return Ok(None);
            }
            let bytes = self.store.get_range(&self.key, at, 16).await?.bytes;
            let Some((kind, length)) = box_at(&bytes, self.size - at) else { return Ok(None) };
            match &kind {
                b"moov" => return Ok(Some((at, length))),
                // Every MP4 begins with one of these; anything else is no MP4.
                b"ftyp" | b"mdat" | b"free" | b"skip" | b"wide" | b"pnot" | b"uuid" | b"styp" | b"sidx"
                | b"moof" | b"mfra" | b"meta" => at += length,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Kind and length of the box that begins with `bytes`, of which `left` are left in the file.
fn box_at(bytes: &[u8], left: u64) -> Option<([u8; 4], u64)> {
    let (short, kind) = (bytes.first_chunk::<4>()?, bytes.get(4..)?.first_chunk::<4>()?);
    let length = match u32::from_be_bytes(*short) {
        0 => left,
        1 => u64::from_be_bytes(*bytes.get(8..)?.first_chunk::<8>()?),
        length => u64::from(length),
    };
    (length >= 8 && length <= left).then_some((*kind, length))
}

#[cfg(test)]
mod tests {
    use super::box_at;

    #[test]
    fn boxes_have_short_long_and_open_lengths() {
        let bytes = |length: u32, long: u64| {
            let long = long.to_be_bytes();
            [length.to_be_bytes().as_slice(), b"mdat", &long].concat()
        };
        assert_eq!(box_at(&bytes(100, 0), 200), Some((*b"mdat", 100)));
        assert_eq!(box_at(&bytes(1, 150), 200), Some((*b"mdat", 150)));
        assert_eq!(box_at(&bytes(0, 0), 200), Some((*b"mdat", 200)));
        for broken in [bytes(4, 0), bytes(300, 0), bytes(1, 3), vec![0, 0]] {
            assert_eq!(box_at(&broken, 200), None);
        }
    }
}
