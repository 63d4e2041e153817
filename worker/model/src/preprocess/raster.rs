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

pub(super) fn decode(bytes: &[u8], kind: Raster, limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    // The decoders are memory-safe, but a panic in one of them must cost one picture, not the process.
    catch_unwind(AssertUnwindSafe(|| decode_checked(bytes, kind, limits))).unwrap_or_else(|_| {
        Err(DecodeError::Corrupt { format: kind.name(), reason: "the decoder gave up".into() })
    })
}

fn decode_checked(bytes: &[u8], kind: Raster, limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let failed = |error: ImageError| decode_error(kind.name(), &error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), kind.format());
    let mut allocations = image::Limits::no_limits();
    // eight bytes a pixel is the widest type that is read, and decoders keep a second copy at most
    allocations.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(16 << 20));
    reader.limits(allocations);
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    // PNG only: grey of 16 bits, which Pillow opens as integers and clips
    let clips = match kind {
        Raster::Png => bytes.get(24..26) == Some(&[16, 0]),
        _ => matches!(image, DynamicImage::ImageLuma16(_)),
    };
    let rgb = to_rgb(image, clips).ok_or_else(|| {
        DecodeError::UnsupportedFormat(format!("{} with floating-point pixels", kind.name()))
    })?;
    if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        return Err(DecodeError::Corrupt { format: kind.name(), reason: "it changed its size".into() });
    }
    Ok(Picture { width, height, rgb })
}

/// Pillow's `convert("RGB")`: grey is replicated, alpha dropped, of 16 bits the upper 8 are kept, except
/// that plain 16-bit grey is clipped.
fn to_rgb(image: DynamicImage, clips: bool) -> Option<Vec<u8>> {
    let high = |value: u16| (value >> 8) as u8;
    let grey16 = |value: u16| if clips { value.min(255) as u8 } else { high(value) };
    Some(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => {
            image.as_raw().as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect()
        }
        DynamicImage::ImageLuma8(image) => image.as_raw().iter().flat_map(|&grey| [grey; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => {
            image.as_raw().as_chunks::<2>().0.iter().flat_map(|p| [p[0]; 3]).collect()
        }
        DynamicImage::ImageLuma16(image) => {
            image.as_raw().iter().flat_map(|&grey| [grey16(grey); 3]).collect()
        }
        DynamicImage::ImageLumaA16(image) => {
            image.as_raw().as_chunks::<2>().0.iter().flat_map(|p| [grey16(p[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.as_raw().iter().map(|&value| high(value)).collect(),
        DynamicImage::ImageRgba16(image) => image
            .as_raw()
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|p| [high(p[0]), high(p[1]), high(p[2])])
            .collect(),
        _ => return None,
    })
}

fn decode_error(format: &'static str, error: &ImageError) -> DecodeError {
    if is_early_end(error) {
        return DecodeError::Truncated { format };
    }
    match error {
        ImageError::Unsupported(reason) => DecodeError::UnsupportedFormat(reason.to_string()),
        other => DecodeError::Corrupt { format, reason: other.to_string() },
    }
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
}
