//! TIFF kinds that the general decoder does not know, or converts otherwise than Pillow.

use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::decoder::{Decoder, DecodingResult};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};

use super::jpeg::cmyk_to_rgb;
use super::raster::{self, Raster};
use super::{DecodeError, DecodeLimits, Picture};

const FORMAT: &str = "TIFF";
const PHOTOMETRIC_TAG: u16 = 262;
const PALETTE: u16 = 3;
const BLACK_IS_ZERO: u8 = 1;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    raster::guarded(FORMAT, || match special(bytes, limits)? {
        Some(picture) => Ok(picture),
        None => raster::decode(bytes, Raster::Tiff, limits),
    })
}

/// `None`: the general decoder gives Pillow's pixels.
fn special(bytes: &[u8], limits: &DecodeLimits) -> Result<Option<Picture>, DecodeError> {
    let photometric = photometric_value(bytes);
    let is_palette = photometric.is_some_and(|at| short(bytes, at) == Some(PALETTE));
    // indices are decoded as if they were grey
    let readable: Cow<[u8]> = match photometric {
        Some(at) if is_palette => {
            let mut patched = bytes.to_vec();
            patched[at..at + 2].copy_from_slice(&if bytes[0] == b'I' {
                [BLACK_IS_ZERO, 0]
            } else {
                [0, BLACK_IS_ZERO]
            });
            Cow::Owned(patched)
        }
        _ => Cow::Borrowed(bytes),
    };
    let failed = |error: TiffError| decode_error(&error);
    let mut decoder = Decoder::new(Cursor::new(&*readable)).map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    limits.check(width, height)?;
    let kind = decoder.colortype().map_err(failed)?;
    let wanted = matches!(
        (is_palette, kind),
        (true, ColorType::Gray(1 | 2 | 4 | 8))
            | (false, ColorType::CMYK(8) | ColorType::Multiband { bit_depth: 8, num_samples: 2 })
    );
    if !wanted {
        return Ok(None);
    }
    let mut spending = ::tiff::decoder::Limits::default();
    spending.decoding_buffer_size =
        usize::try_from(limits.max_pixels.saturating_mul(4)).unwrap_or(usize::MAX);
    spending.intermediate_buffer_size = spending.decoding_buffer_size;
    let mut decoder = decoder.with_limits(spending);
    let DecodingResult::U8(samples) = decoder.read_image().map_err(failed)? else { return Ok(None) };
    let rgb: Vec<u8> = match kind {
        ColorType::CMYK(_) => samples.as_chunks().0.iter().copied().flat_map(cmyk_to_rgb).collect(),
        ColorType::Gray(bits) => {
            let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(failed)?;
            let indices = unpacked(&samples, width as usize, bits);
            indices.into_iter().flat_map(|index| palette_entry(&map, index)).collect()
        }
        _ => samples.as_chunks::<2>().0.iter().flat_map(|pixel| [pixel[0]; 3]).collect(),
    };
    if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::UnsupportedFormat("TIFF with planes apart".into()));
    }
    Ok(Some(Picture { width, height, rgb }))
}

/// Three tables one after the other, 16 bits of which Pillow keeps the upper 8.
fn palette_entry(map: &[u16], index: u8) -> [u8; 3] {
    let entries = map.len() / 3;
    [0, 1, 2].map(|channel| {
        let at = channel * entries + usize::from(index);
        if usize::from(index) < entries { (map[at] >> 8) as u8 } else { 0 }
    })
}

/// One byte per sample, from rows that begin at whole bytes.
fn unpacked(samples: &[u8], width: usize, bits: u8) -> Vec<u8> {
    if bits == 8 {
        return samples.to_vec();
    }
    let per_byte = usize::from(8 / bits);
    let mask = (1u8 << bits) - 1;
    let mut indices = Vec::with_capacity(samples.len() * per_byte);
    for row in samples.chunks(width.div_ceil(per_byte)) {
        let sample = |x: usize| (row[x / per_byte] >> (8 - bits * (x % per_byte + 1) as u8)) & mask;
        indices.extend((0..width.min(row.len() * per_byte)).map(sample));
    }
    indices
}

/// Where the first directory keeps its photometric interpretation.
fn photometric_value(bytes: &[u8]) -> Option<usize> {
    let directory = long(bytes, 4)? as usize;
    let entries = usize::from(short(bytes, directory)?);
    (0..entries)
        .map(|number| directory + 2 + number * 12)
        .find(|&entry| short(bytes, entry) == Some(PHOTOMETRIC_TAG))
        .map(|entry| entry + 8)
        .filter(|&value| value + 2 <= bytes.len())
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk()?;
    Some(if bytes[0] == b'I' { u16::from_le_bytes(*pair) } else { u16::from_be_bytes(*pair) })
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(if bytes[0] == b'I' { u32::from_le_bytes(*four) } else { u32::from_be_bytes(*four) })
}

fn decode_error(error: &TiffError) -> DecodeError {
    match error {
        TiffError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        TiffError::UnsupportedError(reason) => DecodeError::UnsupportedFormat(format!("TIFF: {reason}")),
        other => DecodeError::Corrupt { format: FORMAT, reason: other.to_string() },
    }
}
