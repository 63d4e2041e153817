//! A frame as a small JPEG.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, RgbImage};

/// Longest side in pixels.
const SIDE: u32 = 320;
const QUALITY: u8 = 80;

/// Encodes a frame of `width` x `height` pixels of three bytes; `None` if they are not that many.
pub fn thumbnail(rgb: &[u8], width: u32, height: u32) -> Option<Vec<u8>> {
    small_jpeg(rgb, width, height, SIDE)
}

/// As [`thumbnail`], with a longest side of at most `side` pixels.
pub fn small_jpeg(rgb: &[u8], width: u32, height: u32, side: u32) -> Option<Vec<u8>> {
    let frame = RgbImage::from_raw(width, height, rgb.to_vec())?;
    let longest = width.max(height).max(1);
    let scaled =
        |length: u32| (u64::from(length) * u64::from(side.min(longest)) / u64::from(longest)).max(1) as u32;
    let small = image::imageops::thumbnail(&frame, scaled(width), scaled(height));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(small.as_raw(), small.width(), small.height(), ExtendedColorType::Rgb8)
        .ok()?;
    Some(jpeg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::thumbnail;

    #[test]
    fn thumbnails_are_small_and_keep_their_shape() {
        for (frame, small) in [((1920, 1080), (320, 180)), ((90, 30), (90, 30)), ((4000, 2), (320, 1))] {
            let jpeg = thumbnail(&vec![90; frame.0 * frame.1 * 3], frame.0 as u32, frame.1 as u32).unwrap();
            let decoded = image::load_from_memory(&jpeg).unwrap();
            assert_eq!((decoded.width(), decoded.height()), small);
        }
        assert!(thumbnail(&[1, 2, 3], 9, 9).is_none());
    }
}
