//! Formats whose decoders give exact pixels anyway, and how Pillow's modes become RGB.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::{DecodeError, DecodeLimits, Picture};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raster {
    Png,
    WebP,
    Tiff,
    Bmp,
    Ico,
    Pnm,
}

impl Raster {
    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::Ico => "ICO",
            Self::Pnm => "PNM",
        }
    }

    fn format(self) -> ImageFormat {
        match self {
            Self::Png => ImageFormat::Png,
            Self::WebP => ImageFormat::WebP,
            Self::Tiff => ImageFormat::Tiff,
            Self::Bmp => ImageFormat::Bmp,
            Self::Ico => ImageFormat::Ico,
            Self::Pnm => ImageFormat::Pnm,
        }
    }
}

/// What becomes of 16-bit samples, and of 8-bit ones that have a range of their own.
type Scale<'a> = &'a dyn Fn(u16) -> u8;

pub(super) fn decode(bytes: &[u8], kind: Raster, limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    guarded(kind.name(), || {
        let (width, height, image) = decode_image(bytes, kind, limits)?;
        // PNG states its depth itself, because a transparent grey hides the kind from the decoder's answer
        let clips = match kind {
            Raster::Png => bytes.get(24..26) == Some(&[16, 0]),
            _ => matches!(image, DynamicImage::ImageLuma16(_)),
        };
        let high = |value: u16| (value >> 8) as u8;
        let clipped = |value: u16| value.min(255) as u8;
        let rgb = to_rgb(image, if clips { &clipped } else { &high });
        finish(kind, width, height, rgb)
    })
}

/// As [`decode`], with every sample, 8 bits or 16, going through `scale`.
pub(super) fn decode_with(
    bytes: &[u8],
    kind: Raster,
    limits: &DecodeLimits,
    scale: Scale,
) -> Result<Picture, DecodeError> {
    guarded(kind.name(), || {
        let (width, height, image) = decode_image(bytes, kind, limits)?;
        let narrow: [u8; 256] = std::array::from_fn(|value| scale(value as u16));
        let is_wide = matches!(image, DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_));
        let mut rgb = to_rgb(image, scale);
        if let (false, Some(rgb)) = (is_wide, &mut rgb) {
            for sample in rgb {
                *sample = narrow[usize::from(*sample)];
            }
        }
        finish(kind, width, height, rgb)
    })
}

/// Run a decoder. They are memory-safe, but a panic in one of them must cost one picture, not the process.
pub(super) fn guarded(
    format: &'static str,
    decode: impl FnOnce() -> Result<Picture, DecodeError>,
) -> Result<Picture, DecodeError> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(DecodeError::Corrupt { format, reason: "the decoder gave up".into() }))
}

fn decode_image(
    bytes: &[u8],
    kind: Raster,
    limits: &DecodeLimits,
) -> Result<(u32, u32, DynamicImage), DecodeError> {
    let failed = |error: ImageError| decode_error(kind, &error, bytes);
    let mut pixels = limits.max_pixels;
    // What lies beside the pixels is unpacked before the decoder tells how many there are.
    if kind == Raster::Png
        && let Some((width, height)) = size_of_png(bytes)
    {
        limits.check(width, height)?;
        pixels = u64::from(width) * u64::from(height);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind.format());
    reader.limits(allocations(pixels));
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    decoder.set_limits(allocations(u64::from(width) * u64::from(height))).map_err(failed)?;
    Ok((width, height, DynamicImage::from_decoder(decoder).map_err(failed)?))
}

/// What a decoder may allocate for so many pixels: eight bytes each is the widest type that is read, a second copy is kept at
/// most, and there is something beside the pixels.
fn allocations(pixels: u64) -> image::Limits {
    let mut allocations = image::Limits::no_limits();
    allocations.max_alloc = Some(pixels.saturating_mul(16).saturating_add(16 << 20));
    allocations
}

fn finish(kind: Raster, width: u32, height: u32, rgb: Option<Vec<u8>>) -> Result<Picture, DecodeError> {
    let rgb = rgb.ok_or_else(|| {
        DecodeError::UnsupportedFormat(format!("{} with floating-point pixels", kind.name()))
    })?;
    if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::Corrupt { format: kind.name(), reason: "it changed its size".into() });
    }
    Ok(Picture { width, height, rgb })
}

/// Pillow's `convert("RGB")`: grey is replicated and alpha dropped; 16-bit samples go through `wide`.
/// `None` for floating-point pixels.
fn to_rgb(image: DynamicImage, wide: Scale) -> Option<Vec<u8>> {
    fn replicated<T: Copy>(samples: &[T], channels: usize, byte: impl Fn(T) -> u8) -> Vec<u8> {
        samples.chunks_exact(channels).flat_map(|pixel| [byte(pixel[0]); 3]).collect()
    }
    fn opaque<T: Copy>(samples: &[T], byte: impl Fn(T) -> u8) -> Vec<u8> {
        samples.as_chunks::<4>().0.iter().flat_map(|p| [byte(p[0]), byte(p[1]), byte(p[2])]).collect()
    }
    let same = |value: u8| value;
    Some(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => opaque(image.as_raw(), same),
        DynamicImage::ImageLuma8(image) => replicated(image.as_raw(), 1, same),
        DynamicImage::ImageLumaA8(image) => replicated(image.as_raw(), 2, same),
        DynamicImage::ImageLuma16(image) => replicated(image.as_raw(), 1, wide),
        DynamicImage::ImageLumaA16(image) => replicated(image.as_raw(), 2, wide),
        DynamicImage::ImageRgb16(image) => image.as_raw().iter().map(|&value| wide(value)).collect(),
        DynamicImage::ImageRgba16(image) => opaque(image.as_raw(), wide),
        _ => return None,
    })
}

/// Sort a decoder's error into the codes of rows.
fn decode_error(kind: Raster, error: &ImageError, bytes: &[u8]) -> DecodeError {
    let format = kind.name();
    if is_early_end(error) || (kind == Raster::WebP && is_shorter_than_stated(bytes)) {
        return DecodeError::Truncated { format };
    }
    match error {
        ImageError::Unsupported(reason) => DecodeError::UnsupportedFormat(reason.to_string()),
        other => DecodeError::Corrupt { format, reason: other.to_string() },
    }
}

/// What a PNG's header says; the decoder refuses a very large one before it can be asked.
fn size_of_png(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|four| u32::from_be_bytes(*four));
    (bytes.get(12..16)? == b"IHDR").then_some((side(16)?, side(20)?))
}

/// WebP's container states its length; the decoder of what is inside cannot tell an end from damage.
fn is_shorter_than_stated(bytes: &[u8]) -> bool {
    let stated =
        bytes.get(4..8).and_then(|four| four.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four));
    (bytes.len() as u64) < u64::from(stated) + 8
}

/// Whether some cause says that the bytes ran out.
fn is_early_end(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == ErrorKind::UnexpectedEof
        {
            return true;
        }
        cause = error.source();
    }
    let text = error.to_string();
    text.contains("nexpected end of")
        || text.contains("UnexpectedEof")
        || text.contains("failed to fill whole buffer")
        || text.contains("Not enough data was provided")
}
