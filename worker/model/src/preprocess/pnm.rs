//! PNM with its sample range: Pillow stretches `0..=maxval` in f64, with ties to even.

use std::borrow::Cow;
use std::ops::Range;

use super::raster::{self, Raster};
use super::{DecodeError, DecodeLimits, Picture};

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    let Some((range, maximum)) = sample_maximum(bytes) else {
        return raster::decode(bytes, Raster::Pnm, limits);
    };
    let wide = maximum > 255;
    let full: &[u8] = if wide { b"65535" } else { b"255" };
    // with the full range in its header, the decoder hands the samples over as they are
    let unscaled: Cow<[u8]> = if bytes[range.clone()] == *full {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned([&bytes[..range.start], full, &bytes[range.end..]].concat())
    };
    let grey = matches!(bytes[1], b'2' | b'5');
    // 16-bit grey becomes integers of up to 65535, which the conversion to RGB clips
    let top = if wide && grey { 65535.0 } else { 255.0 };
    let scale = |value: u16| {
        let scaled = (f64::from(value) / f64::from(maximum) * top).round_ties_even();
        scaled.min(255.0) as u8
    };
    raster::decode_with(&unscaled, Raster::Pnm, limits, &scale)
}

/// Where the header states the largest sample, and what it is; `None` for bitmaps and broken headers.
fn sample_maximum(bytes: &[u8]) -> Option<(Range<usize>, u32)> {
    if matches!(bytes[1], b'1' | b'4') {
        return None;
    }
    let mut at = 2;
    let mut token = 0..0;
    // width, height, maximum
    for _ in 0..3 {
        loop {
            match *bytes.get(at)? {
                b'#' => at += bytes[at..].iter().position(|&byte| byte == b'\n' || byte == b'\r')?,
                byte if byte.is_ascii_whitespace() => at += 1,
                _ => break,
            }
        }
        let length = bytes[at..].iter().position(|byte| !byte.is_ascii_digit())?;
        token = at..at + length;
        at = token.end;
    }
    let maximum = std::str::from_utf8(&bytes[token.clone()]).ok()?.parse().ok()?;
    (1..=65535).contains(&maximum).then_some((token, maximum))
}
