//! JPEG: libjpeg's pixels, turned into RGB as Pillow does.

use super::libjpeg::{self, Failure, Samples};
use super::{DecodeError, DecodeLimits, Picture};

const FORMAT: &str = "JPEG";

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let mut refused = None;
    let decoded = libjpeg::decode(bytes, |width, height| match limits.check(width, height) {
        Ok(()) => true,
        Err(error) => {
            refused = Some(error);
            false
        }
    });
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(Failure::Refused) => {
            return Err(refused.unwrap_or(DecodeError::TooManyPixels {
                width: 0,
                height: 0,
                limits: *limits,
            }));
        }
        Err(Failure::Truncated) => return Err(DecodeError::Truncated { format: FORMAT }),
        Err(Failure::Unsupported(reason)) => {
            return Err(DecodeError::UnsupportedFormat(format!("JPEG with {reason}")));
        }
        Err(Failure::Corrupt(reason)) => return Err(DecodeError::Corrupt { format: FORMAT, reason }),
    };
    let rgb = match decoded.samples {
        Samples::Rgb => decoded.bytes,
        Samples::Grey => decoded.bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        Samples::Cmyk => decoded.bytes.as_chunks().0.iter().copied().flat_map(inverted_cmyk).collect(),
    };
    Ok(Picture { width: decoded.width, height: decoded.height, rgb })
}

/// Adobe stores CMYK inverted, and Pillow takes every four-component JPEG to be Adobe's.
fn inverted_cmyk(pixel: [u8; 4]) -> [u8; 3] {
    cmyk_to_rgb(pixel.map(|ink| 255 - ink))
}

/// Pillow's plain formula: each ink takes away from what black leaves, in proportion.
pub(super) fn cmyk_to_rgb(pixel: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - pixel[3]);
    [0, 1, 2].map(|ink| {
        let product = u32::from(pixel[ink]) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}
