//! TIFF kinds that the general decoder does not know, or converts otherwise than Pillow.

use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Range;

use ::tiff::decoder::{Decoder, DecodingResult};
use ::tiff::tags::Tag;
use ::tiff::{ColorType, TiffError};

use super::jpeg::cmyk_to_rgb;
use super::raster::{self, Raster};
use super::{DecodeError, DecodeLimits, Picture};

const FORMAT: &str = "TIFF";
const PHOTOMETRIC_TAG: u16 = 262;
const PALETTE: u16 = 3;
/// Version of BigTIFF.
const BIG: u16 = 43;
const BLACK_IS_ZERO: u8 = 1;
/// The compression by which strips and tiles are JPEGs.
const JPEG: u64 = 7;
/// Sides of a JPEG that are whole blocks of its coarsest sampling.
const JPEG_BLOCK: u32 = 32;
/// Side of the largest tile that is taken as such whatever the picture's size: 48 MiB of pixels.
const LARGEST_TILE: u32 = 4096;

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    raster::guarded(FORMAT, || {
        if let Ok(mut decoder) = Decoder::new(Cursor::new(bytes)) {
            if let Ok((width, height)) = decoder.dimensions() {
                limits.check(width, height)?;
            }
            let corrupt = |reason: &str| DecodeError::Corrupt { format: FORMAT, reason: reason.to_owned() };
            let pieces = pieces(&mut decoder, bytes);
            if has_shared_bytes(&pieces, bytes) {
                return Err(corrupt("strips or tiles lie on top of each other"));
            }
            if has_larger_jpeg(&mut decoder, &pieces) {
                return Err(corrupt("a strip or tile holds a JPEG that is larger than itself"));
            }
        }
        let decoded = match special(bytes, limits) {
            Ok(Some(picture)) => Ok(picture),
            Ok(None) => raster::decode(bytes, Raster::Tiff, limits),
            Err(error) => Err(error),
        };
        match decoded {
            Err(DecodeError::Corrupt { .. }) if is_cut(bytes) => {
                Err(DecodeError::Truncated { format: FORMAT })
            }
            decoded => decoded,
        }
    })
}

/// Whether pixels lie behind the end of the file: who unpacks them cannot tell that from damage.
fn is_cut(bytes: &[u8]) -> bool {
    let Ok(mut decoder) = Decoder::new(Cursor::new(bytes)) else { return false };
    places(&mut decoder).into_iter().any(|place| place.end > bytes.len() as u64)
}

/// Where the strips and tiles lie.
fn places(decoder: &mut Decoder<Cursor<&[u8]>>) -> Vec<Range<u64>> {
    let mut numbers = |tag| decoder.get_tag_u64_vec(tag).unwrap_or_default();
    [(Tag::StripOffsets, Tag::StripByteCounts), (Tag::TileOffsets, Tag::TileByteCounts)]
        .into_iter()
        .flat_map(|(offsets, sizes)| numbers(offsets).into_iter().zip(numbers(sizes)))
        .map(|(offset, size)| offset..offset.saturating_add(size))
        .collect()
}

/// The strips and tiles, as far as they are there.
fn pieces<'a>(decoder: &mut Decoder<Cursor<&[u8]>>, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
    places(decoder).into_iter().map(|place| &bytes[at(place.start)..at(place.end)]).collect()
}

/// Whether strips and tiles have more bytes together than the file by far. Each of them is read: a megabyte can say of itself so
/// often that it is the next strip that its decoder is busy for hours. Few may be one, such as empty tiles.
fn has_shared_bytes(pieces: &[&[u8]], bytes: &[u8]) -> bool {
    let all = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    all > 2 * bytes.len() as u64
}

/// Whether a strip or tile that is a JPEG claims to be larger than it may be: its decoder believes it.
fn has_larger_jpeg(decoder: &mut Decoder<Cursor<&[u8]>>, pieces: &[&[u8]]) -> bool {
    if decoder.get_tag_u64(Tag::Compression).ok() != Some(JPEG) {
        return false;
    }
    let Ok((width, height)) = decoder.dimensions() else { return false };
    let chunk = decoder.chunk_dimensions();
    // Sides are whole blocks, and tiles may be larger than a small picture.
    let most = |chunk: u32, whole: u32| chunk.min(whole.max(LARGEST_TILE)).next_multiple_of(JPEG_BLOCK);
    let most = (most(chunk.0, width), most(chunk.1, height));
    let tables = decoder.get_tag_u8_vec(Tag::JPEGTables).unwrap_or_default();
    pieces
        .iter()
        .copied()
        .chain([&*tables])
        .flat_map(sizes_of_frames)
        .any(|(width, height)| width > most.0 || height > most.1)
}

/// Width and height of whatever looks like a frame header of an 8-bit JPEG (ITU-T T.81, B.2.2): markers cannot occur in
/// compressed data.
fn sizes_of_frames(jpeg: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    jpeg.windows(10).filter_map(|header| match *header {
        [0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf, _, _, 8, h, eight, w, idth, 1..=4] => {
            Some((u16::from_be_bytes([w, idth]).into(), u16::from_be_bytes([h, eight]).into()))
        }
        _ => None,
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
    // BigTIFF has wider numbers.
    let (directory, count, entry_size, value) = if short(bytes, 2)? == BIG {
        let directory = usize::try_from(number::<8>(bytes, 8)?).ok()?;
        (directory.checked_add(8)?, number::<8>(bytes, directory)?, 20, 12)
    } else {
        let directory = usize::try_from(number::<4>(bytes, 4)?).ok()?;
        (directory.checked_add(2)?, number::<2>(bytes, directory)?, 12, 8)
    };
    bytes
        .get(directory..)?
        .chunks_exact(entry_size)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .position(|entry| {
            bytes[0] == b'I' && entry.starts_with(&PHOTOMETRIC_TAG.to_le_bytes())
                || bytes[0] == b'M' && entry.starts_with(&PHOTOMETRIC_TAG.to_be_bytes())
        })
        .map(|place| directory + place * entry_size + value)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    number::<2>(bytes, at).and_then(|number| u16::try_from(number).ok())
}

/// `N` bytes in the file's order.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let digits: &[u8; N] = bytes.get(at..)?.first_chunk()?;
    let append = |number: u64, digit: &u8| number << 8 | u64::from(*digit);
    Some(if bytes[0] == b'I' { digits.iter().rev().fold(0, append) } else { digits.iter().fold(0, append) })
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
