//! Which decoder gets the bytes, and what it may spend on them.

use super::raster::{self, Raster};
use super::{DecodeError, Picture, gif, ico, jpeg, pnm, tiff, webp};

/// What a picture may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// size of the file
    pub max_bytes: u64,
    /// width × height
    pub max_pixels: u64,
    /// width, and height
    pub max_side: u32,
}

impl Default for DecodeLimits {
    /// 64 MiB, 100 million pixels (about the largest camera sensors), 65,535 pixels a side.
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_pixels: 100_000_000, max_side: 65_535 }
    }
}

impl DecodeLimits {
    /// Judge a picture by its header.
    pub(super) fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        let pixels = u64::from(width) * u64::from(height);
        if width > self.max_side || height > self.max_side || pixels > self.max_pixels {
            return Err(DecodeError::TooManyPixels { width, height, limits: *self });
        }
        Ok(())
    }
}

/// Decode one picture to RGB: the first frame of an animation, the largest picture of an icon.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() as u64 > limits.max_bytes {
        return Err(DecodeError::TooLarge { bytes: bytes.len() as u64, limit: limits.max_bytes });
    }
    match bytes {
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, limits),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => raster::decode(bytes, Raster::Png, limits),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(bytes, limits),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes, limits),
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => tiff::decode(bytes, limits),
        [b'B', b'M', ..] => raster::decode(bytes, Raster::Bmp, limits),
        [0, 0, 1, 0, ..] => ico::decode(bytes, limits),
        [b'P', b'1'..=b'6', separator, ..] if separator.is_ascii_whitespace() || *separator == b'#' => {
            pnm::decode(bytes, limits)
        }
        _ => Err(DecodeError::UnsupportedFormat(
            "the content is none of JPEG, PNG, GIF, WebP, TIFF, BMP, ICO and PNM".into(),
        )),
    }
}
