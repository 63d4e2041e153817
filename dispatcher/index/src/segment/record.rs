//! The fixed part of a row.

use super::u32_at;
use sha2::{Digest as _, Sha256};

/// ```text
/// 0 key (u128)  16 finished (i64, µs)  24 frame (i64, ms, -1 none)  32 text (u64)  40 item's length
/// 44 caption's length (all ones: none)  48 part  52 code (all ones: none)  56 width  60 height  64 status (u8)
/// 65 asked (u24)  68 words  72 content (u64)
/// ```
pub(super) const RECORD_BYTES: usize = 80;
const NONE: u32 = u32::MAX;

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Captioned.
    Ok,
    /// Could not be.
    Failed,
    /// Left out on purpose.
    Skipped,
}

/// What is known of a row besides its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Rows of the same item have the same; frames of a film have the first half in common.
    pub key: u128,
    /// When the row was made, in microseconds since 1970.
    pub finished: i64,
    /// Time of a video's frame.
    pub frame_ms: Option<u64>,
    /// Which of the segment's parts it is from.
    pub part: u32,
    /// Place of its codes.
    pub code: Option<u32>,
    /// Width and height in pixels, where known.
    pub size: Option<(u32, u32)>,
    /// What became of the item.
    pub status: Status,
    /// Words of the caption.
    pub words: u32,
    /// Tells captions and the answers to different questions apart, in 24 bits; 0 is a caption.
    pub asked: u32,
    /// Tells the bytes of a picture or film apart ([`content_key`]); 0 where they are not known.
    pub content: u64,
    pub(super) text: u64,
    pub(super) item_length: u32,
    pub(super) caption_length: Option<u32>,
}

/// What rows of the same item have in common.
pub fn item_key(item: &str, frame_ms: Option<u64>) -> u128 {
    let source = beginning(Sha256::new().chain_update(item));
    let frame = frame_ms.map_or(-1_i64, |frame| frame as i64).to_le_bytes();
    let frame = beginning(Sha256::new().chain_update(frame).chain_update(item));
    u128::from(source) << 64 | u128::from(frame)
}

/// What rows of the same bytes have in common, from the digest of those or, where there is none, their version.
pub fn content_key(content: &str) -> u64 {
    beginning(Sha256::new().chain_update(content)).max(1)
}

fn beginning(digest: Sha256) -> u64 {
    let mut key = [0; 8];
    key.copy_from_slice(&digest.finalize()[..8]);
    u64::from_le_bytes(key)
}

impl Record {
    /// What the frames of a film have in common.
    pub(crate) fn source(&self) -> u64 {
        (self.key >> 64) as u64
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&bytes[..16]);
        let wide = |at: usize| i64::from(u32_at(bytes, at)) | i64::from(u32_at(bytes, at + 4)) << 32;
        let optional = |at: usize| Some(u32_at(bytes, at)).filter(|value| *value != NONE);
        Self {
            key: u128::from_le_bytes(key),
            finished: wide(16),
            frame_ms: u64::try_from(wide(24)).ok(),
            text: wide(32) as u64,
            item_length: u32_at(bytes, 40),
            caption_length: optional(44),
            part: u32_at(bytes, 48),
            code: optional(52),
            size: Some((u32_at(bytes, 56), u32_at(bytes, 60)))
                .filter(|(width, height)| *width > 0 && *height > 0),
            status: match bytes[64] {
                0 => Status::Ok,
                1 => Status::Failed,
                _ => Status::Skipped,
            },
            words: u32_at(bytes, 68),
            asked: u32_at(bytes, 64) >> 8,
            content: wide(72) as u64,
        }
    }

    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let (width, height) = self.size.unwrap_or((0, 0));
        into.extend(self.key.to_le_bytes());
        into.extend(self.finished.to_le_bytes());
        into.extend(self.frame_ms.map_or(-1, |frame| frame as i64).to_le_bytes());
        into.extend(self.text.to_le_bytes());
        let (caption, code) = (self.caption_length.unwrap_or(NONE), self.code.unwrap_or(NONE));
        let status = match self.status {
            Status::Ok => 0,
            Status::Failed => 1,
            Status::Skipped => 2,
        };
        let status = status | self.asked << 8;
        for number in [self.item_length, caption, self.part, code, width, height, status, self.words] {
            into.extend(number.to_le_bytes());
        }
        into.extend(self.content.to_le_bytes());
    }
}
