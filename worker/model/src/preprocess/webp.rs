//! WebP containers, whose frames have a size of their own: the decoder believes a frame before it compares the two.

use super::raster::{self, Raster};
use super::{DecodeError, DecodeLimits, Picture};

/// Behind `RIFF`, the length and `WEBP`.
const FIRST_CHUNK: usize = 12;
/// Position, size, duration and flags of an animation's frame, in front of its own chunks.
const FRAME_HEADER: usize = 16;
/// What a lossy key frame begins with, behind its three bytes of tag (RFC 6386, section 9.1).
const KEY_FRAME: [u8; 3] = [0x9d, 0x01, 0x2a];

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    if !fits_its_canvas(bytes) {
        let reason = "a frame is larger than the canvas".to_owned();
        return Err(DecodeError::Corrupt { format: "WebP", reason });
    }
    raster::decode(bytes, Raster::WebP, limits)
}

/// Whether no lossy frame claims to be larger than the canvas that the file states.
fn fits_its_canvas(bytes: &[u8]) -> bool {
    let Some((b"VP8X", payload)) = chunks(bytes, FIRST_CHUNK).next() else { return true };
    let (Some(width), Some(height)) = (side(payload, 4), side(payload, 7)) else { return true };
    let fits = |payload: &[u8]| {
        size_of_frame(payload)
            .is_none_or(|(one, other)| u32::from(one) <= width && u32::from(other) <= height)
    };
    chunks(bytes, FIRST_CHUNK).all(|(kind, payload)| match kind {
        b"ICCP" | b"EXIF" | b"XMP " => true,
        b"ANMF" => chunks(payload, FRAME_HEADER).all(|(_, payload)| fits(payload)),
        _ => fits(payload),
    })
}

/// Names and contents of the chunks from `at` on; the last one may be cut off.
fn chunks(bytes: &[u8], mut at: usize) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        at = at.checked_add(8)?.checked_add(length)?.checked_add(length % 2)?;
        Some((kind, &rest[..length.min(rest.len())]))
    })
}

/// Width or height of a canvas.
fn side(payload: &[u8], at: usize) -> Option<u32> {
    let [low, middle, high] = *payload.get(at..)?.first_chunk::<3>()?;
    Some(u32::from_le_bytes([low, middle, high, 0]) + 1)
}

/// What a lossy frame claims to be.
fn size_of_frame(payload: &[u8]) -> Option<(u16, u16)> {
    let sides = payload.get(3..)?.strip_prefix(&KEY_FRAME)?;
    let side = |at: usize| Some(u16::from_le_bytes(*sides.get(at..)?.first_chunk()?) & 0x3fff);
    Some((side(0)?, side(2)?))
}
