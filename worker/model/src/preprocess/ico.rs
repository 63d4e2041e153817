//! Icons: the largest picture of the file, of the greatest depth.

use super::raster::{self, Raster};
use super::{DecodeError, DecodeLimits, Picture};

const HEADER: usize = 6;
const ENTRY: usize = 16;
/// Where an icon of one picture has it.
const FIRST: u32 = (HEADER + ENTRY) as u32;

/// Chooses as Pillow does. A PNG within is read as any PNG: the icon decoder takes only those with red, green, blue and
/// alpha, which few programs keep to.
pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let count = bytes.get(4..HEADER).map_or(0, |count| usize::from(u16::from_le_bytes([count[0], count[1]])));
    let entries = bytes.get(HEADER..).unwrap_or_default().as_chunks::<ENTRY>().0;
    let Some(entry) = entries.iter().take(count).max_by_key(|entry| (area(entry), depth(entry))) else {
        return raster::decode(bytes, Raster::Ico, limits);
    };
    let (start, length) = (number(entry, 12) as usize, number(entry, 8) as usize);
    let end = start.saturating_add(length).min(bytes.len());
    let Some(picture) = bytes.get(start..end) else {
        return raster::decode(bytes, Raster::Ico, limits);
    };
    if picture.starts_with(b"\x89PNG") {
        return raster::decode(picture, Raster::Png, limits);
    }
    let mut entry = *entry;
    entry[12..].copy_from_slice(&FIRST.to_le_bytes());
    let alone = [&[0, 0, 1, 0, 1, 0], &entry[..], picture].concat();
    raster::decode(&alone, Raster::Ico, limits)
}

/// A side of 256 is written as 0.
fn area(entry: &[u8; ENTRY]) -> u32 {
    let side = |byte: u8| u32::from(byte.wrapping_sub(1)) + 1;
    side(entry[0]) * side(entry[1])
}

fn depth(entry: &[u8; ENTRY]) -> u16 {
    u16::from_le_bytes([entry[6], entry[7]])
}

fn number(entry: &[u8; ENTRY], at: usize) -> u32 {
    u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
}
