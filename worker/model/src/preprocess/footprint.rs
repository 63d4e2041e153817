//! What a picture takes in memory until it is a square, as its header tells: decoders differ by a factor of six.

use super::{DecodeError, DecodeLimits, decode};

/// Bytes of a pixel as it is handed on.
const RGB: u64 = 3;

/// The most bytes, beside the file itself, that decoding a picture and resizing it to `side` pixels takes. None for what will not be
/// decoded.
pub fn footprint(file: &[u8], limits: &DecodeLimits, side: usize) -> u64 {
    // Its size is why it is refused: nothing but the header is read.
    let header_alone = DecodeLimits { max_pixels: 0, ..*limits };
    let Err(DecodeError::TooManyPixels { width, height, .. }) = decode(file, &header_alone) else { return 0 };
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        return 0;
    }
    let (a_pixel, beside) = decoding(file);
    // Every row is narrowed before the columns are, by weights of four places for each input, a few rows at a time as integers.
    let (sides, side) = (u64::from(width) + u64::from(height), side as u64);
    let narrowed = u64::from(height).saturating_mul(side).saturating_add(side.saturating_mul(side));
    let resizing = RGB.saturating_mul(pixels.saturating_add(narrowed)).saturating_add(128 * sides);
    resizing.max(a_pixel * pixels + beside)
}

/// The most bytes that a decoder has at a time: for each pixel, and beside them. What comes out is counted, and so is what it is
/// made of where that is something else.
fn decoding(file: &[u8]) -> (u64, u64) {
    let length = file.len() as u64;
    match file {
        [0xff, 0xd8, ..] => (jpeg(file), 0),
        [0x89, b'P', ..] => (png(file), 0),
        // Indices of a frame, and of the canvas.
        [b'G', ..] => (2 + RGB, 0),
        [b'B', ..] => (4 + RGB, 0),
        // A canvas and a frame on it, each with alpha, and the frame's planes.
        [b'R', ..] => (4 + 4 + 4 + RGB, length),
        // 16 bits of four channels as they are decoded, again as the pixels of a picture, and a copy of the file whose kind was changed.
        [b'I' | b'M', ..] => (8 + 8 + RGB, length),
        // 16 bits of three channels, and a copy of the file whose largest sample was changed.
        [b'P', ..] => (6 + RGB, length),
        // Icons may hold any PNG.
        _ => (8 + RGB, length),
    }
}

/// By depth and kind (PNG, third edition, 11.2.1). A transparent colour makes alpha of any kind but those that have it.
fn png(file: &[u8]) -> u64 {
    let (depth, kind) = (file.get(24).copied().unwrap_or(16), file.get(25).copied().unwrap_or(6));
    let channels = if matches!(kind, 0 | 4) { 2 } else { 4 };
    channels * if depth == 16 { 2 } else { 1 } + RGB
}

/// By what its frame and its first scan say (ITU-T T.81, B.2): where one scan does not hold everything, the coefficients of 16 bits of
/// all components are kept.
fn jpeg(file: &[u8]) -> u64 {
    // What cannot be understood is taken for the worst.
    let (components, keeps_coefficients) = frame_and_scan(file).unwrap_or((4, true));
    let samples = if components == 3 { RGB } else { components + RGB };
    samples + if keeps_coefficients { 2 * components } else { 0 }
}

fn frame_and_scan(file: &[u8]) -> Option<(u64, bool)> {
    let mut at = 2;
    let mut frame = None;
    loop {
        let [0xff, marker, rest @ ..] = file.get(at..)? else { return None };
        if *marker == 0xff {
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
        match marker {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => frame = Some((u64::from(*rest.get(7)?), marker & 3 == 2)),
            0xda => {
                let (components, is_progressive) = frame?;
                return Some((components, is_progressive || u64::from(*rest.get(2)?) < components));
            }
            _ => {}
        }
        at += 2 + length;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    fn of(name: &str) -> u64 {
        let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
        decoding(&std::fs::read(pictures.join(name)).unwrap()).0
    }

    #[test]
    fn headers_tell_what_a_pixel_takes() {
        for (name, bytes) in [
            ("jpeg_48x33_q75_s0_b.jpg", 3),
            ("jpeg_48x33_q75_grey.jpg", 4),
            ("jpeg_48x33_q75_cmyk.jpg", 7),
            ("jpeg_48x33_q75_s0_p.jpg", 9),
            ("jpeg_arithmetic.jpg", 3),
            ("jpeg_arithmetic_progressive.jpg", 9),
            ("jpeg_exif_turned.jpg", 3),
            ("png_37x23_L.png", 5),
            ("png_37x23_RGB.png", 7),
            ("png_37x23_c2_16.png", 11),
            ("png_37x23_c0_16.png", 7),
        ] {
            assert_eq!(of(name), bytes, "{name}");
        }
    }

    #[test]
    fn every_format_s_header_is_read() {
        use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
        let picture = image::DynamicImage::from(image::RgbImage::new(120, 90));
        let limits = DecodeLimits::default();
        let written = [Bmp, Gif, Jpeg, Png, Tiff, WebP].map(|format| {
            let mut file = std::io::Cursor::new(Vec::new());
            picture.write_to(&mut file, format).unwrap();
            file.into_inner()
        });
        let pnm = [b"P6 120 90 255\n".as_slice(), &vec![0; 3 * 120 * 90]].concat();
        for file in written.iter().chain([&pnm]) {
            assert!(footprint(file, &limits, 1) >= 3 * 120 * 90, "{:?}", &file[..8]);
            let few = DecodeLimits { max_pixels: 100, ..limits };
            assert_eq!(footprint(file, &few, 1), 0, "{:?}: it will be refused", &file[..8]);
        }
    }

    #[test]
    fn what_is_refused_takes_nothing_and_what_is_narrow_its_rows() {
        let limits = DecodeLimits::default();
        let png = |width, height| {
            let mut file = std::io::Cursor::new(Vec::new());
            let picture = image::DynamicImage::from(image::GrayImage::new(width, height));
            picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
            file.into_inner()
        };
        assert_eq!(footprint(&png(1000, 1000), &limits, 50), 5 * 1000 * 1000);
        assert_eq!(footprint(&png(100, 100), &DecodeLimits { max_pixels: 9_999, ..limits }, 50), 0);
        assert_eq!(footprint(b"no picture", &limits, 50), 0);
        let narrowed = 3 * (60_000 * (1 + 448) + 448 * 448);
        assert_eq!(footprint(&png(1, 60_000), &limits, 448), narrowed + 128 * 60_001);
    }
}
