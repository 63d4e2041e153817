//! Every awkward picture that an archive holds sooner or later, made here, and the outcome of each.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::Path;

use captionfleet_model::preprocess::{DecodeLimits, Picture, decode, resize_square};
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, Frame, ImageEncoder, ImageFormat, Rgb, RgbImage};

fn gradient(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8])).into()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn committed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

/// `WIDTHxHEIGHT`, or the code of the failed row.
fn outcome(bytes: &[u8]) -> String {
    match decode(bytes, &DecodeLimits::default()) {
        Ok(picture) => {
            let square = resize_square(&picture, 224);
            assert_eq!(square.rgb.len(), 224 * 224 * 3);
            format!("{}x{}", picture.width, picture.height)
        }
        Err(error) => error.code().to_owned(),
    }
}

fn pixels(bytes: &[u8]) -> Picture {
    decode(bytes, &DecodeLimits::default()).unwrap()
}

fn check(table: &[(&str, Vec<u8>, &str)]) {
    let wrong: Vec<String> = table
        .iter()
        .map(|(name, bytes, wanted)| (name, outcome(bytes), wanted))
        .filter(|(_, got, wanted)| got != *wanted)
        .map(|(name, got, wanted)| format!("{name}: {got} instead of {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_picture_says_so() {
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec();
    let avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".to_vec();
    let svg = b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec();
    check(&[
        ("0 bytes", Vec::new(), "empty"),
        ("1 byte", vec![0xff], "unsupported_format"),
        ("zeros", vec![0; 4096], "unsupported_format"),
        ("HTML named .jpg", b"<!DOCTYPE html><html><body>404</body></html>".to_vec(), "unsupported_format"),
        ("AVIF", avif, "unsupported_format"),
        ("HEIC", heic, "unsupported_format"),
        ("SVG", svg, "unsupported_format"),
        ("start of a JPEG", vec![0xff, 0xd8, 0xff], "truncated"),
        ("start of a PNG", b"\x89PNG\r\n\x1a\n".to_vec(), "truncated"),
        ("start of a GIF", b"GIF89a".to_vec(), "truncated"),
        ("start of a WebP", b"RIFF\x04\0\0\0WEBP".to_vec(), "truncated"),
        ("start of a TIFF", b"II*\0".to_vec(), "truncated"),
        // Its decoder panics.
        ("palette of a colour and a third", odd_palette(), "corrupt"),
    ]);
}

#[test]
fn every_kind_and_size_of_picture_is_read() {
    let rgb = gradient(64, 48);
    let mut with_profile = Cursor::new(Vec::new());
    let mut encoder = PngEncoder::new(&mut with_profile);
    encoder.set_icc_profile(vec![7; 600]).unwrap();
    encoder.write_image(rgb.as_bytes(), 64, 48, rgb.color().into()).unwrap();
    check(&[
        ("JPEG", encoded(&rgb, ImageFormat::Jpeg), "64x48"),
        ("PNG named .jpg", encoded(&rgb, ImageFormat::Png), "64x48"),
        ("WebP", encoded(&rgb, ImageFormat::WebP), "64x48"),
        ("BMP", encoded(&rgb, ImageFormat::Bmp), "64x48"),
        ("TIFF", encoded(&rgb, ImageFormat::Tiff), "64x48"),
        ("16 bit", encoded(&rgb.to_rgb16().into(), ImageFormat::Png), "64x48"),
        ("grey", encoded(&rgb.to_luma8().into(), ImageFormat::Png), "64x48"),
        ("grey and alpha", encoded(&rgb.to_luma_alpha8().into(), ImageFormat::Png), "64x48"),
        ("16 bit grey and alpha", encoded(&rgb.to_luma_alpha16().into(), ImageFormat::Png), "64x48"),
        ("colour profile", with_profile.into_inner(), "64x48"),
        ("palette", committed("png_37x23_P.png"), "37x23"),
        ("palette and transparency", committed("png_37x23_Ptrans.png"), "37x23"),
        ("CMYK", committed("jpeg_48x33_q75_cmyk.jpg"), "48x33"),
        ("YCCK", committed("jpeg_ycck.jpg"), "48x33"),
        ("progressive", committed("jpeg_48x33_q75_s2_p.jpg"), "48x33"),
        ("icon", committed("ico_45x31.ico"), "45x31"),
        ("BigTIFF", tiff(Tiff { is_big: true, ..Tiff::default() }), "20x30"),
        (
            "BigTIFF, most significant byte first",
            tiff(Tiff { is_big: true, msb_first: true, ..Tiff::default() }),
            "20x30",
        ),
        ("TIFF with LZW", tiff(Tiff { pixels: Stored::Lzw, ..Tiff::default() }), "20x30"),
        ("animated GIF", animated_gif(), "64x48"),
        ("animated PNG", animated_png(), "64x48"),
        ("animated WebP", animated_webp(), "64x48"),
        ("1 x 1", encoded(&gradient(1, 1), ImageFormat::Png), "1x1"),
        ("1 x 20,000", encoded(&gradient(1, 20_000), ImageFormat::Png), "1x20000"),
        ("20,000 x 1", encoded(&gradient(20_000, 1), ImageFormat::Jpeg), "20000x1"),
        ("17,000 px", encoded(&gradient(17_000, 500), ImageFormat::Jpeg), "17000x500"),
        ("all black", encoded(&RgbImage::new(80, 60).into(), ImageFormat::Jpeg), "80x60"),
        (
            "all white",
            encoded(&RgbImage::from_pixel(80, 60, Rgb([255; 3])).into(), ImageFormat::Jpeg),
            "80x60",
        ),
    ]);
}

#[test]
fn of_several_pictures_the_first_is_read() {
    let first = gradient(64, 48).to_rgb8().into_raw();
    assert!(pixels(&animated_png()).rgb == first);
    assert!(pixels(&animated_gif()).rgb == vec![0; 64 * 48 * 3]);
}

/// As the reference: the orientation is not applied, whatever it says.
#[test]
fn orientation_is_not_applied() {
    let plain = encoded(&gradient(64, 48), ImageFormat::Jpeg);
    for orientation in 1..=8 {
        let mut turned = Cursor::new(Vec::new());
        let mut encoder = JpegEncoder::new(&mut turned);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.encode_image(&gradient(64, 48)).unwrap();
        let turned = pixels(turned.get_ref());
        let upright = pixels(&plain);
        assert_eq!((turned.width, turned.height), (64, 48), "{orientation}");
        assert_eq!(turned.rgb.len(), upright.rgb.len());
    }
    // An orientation of nonsense is no reason to refuse a picture.
    assert_eq!(outcome(&committed("jpeg_exif_turned.jpg")), "48x33");
}

#[test]
fn a_picture_cut_anywhere_is_truncated() {
    let rgb = gradient(120, 90);
    for (name, whole) in [
        ("JPEG", encoded(&rgb, ImageFormat::Jpeg)),
        ("progressive JPEG", committed("jpeg_48x33_q75_s2_p.jpg")),
        ("PNG", encoded(&rgb, ImageFormat::Png)),
        ("GIF", encoded(&rgb, ImageFormat::Gif)),
        ("WebP", encoded(&rgb, ImageFormat::WebP)),
        ("BMP", encoded(&rgb, ImageFormat::Bmp)),
        ("TIFF", encoded(&rgb, ImageFormat::Tiff)),
        ("TIFF with LZW behind its directory", tiff(Tiff { pixels: Stored::Lzw, ..Tiff::default() })),
        ("BigTIFF", tiff(Tiff { is_big: true, ..Tiff::default() })),
        ("PNM in digits", [&b"P2\n8 8\n255\n"[..], &b"7 ".repeat(64)].concat()),
        ("PNM", [&b"P6\n8 8\n255\n"[..], &[7; 192]].concat()),
    ] {
        for tenth in 1..10 {
            let cut = &whole[..whole.len() * tenth / 10];
            assert_eq!(outcome(cut), "truncated", "{name} at {tenth}0 %");
        }
    }
}

/// A palette is found in BigTIFF as well: without it, its indices are no colours.
#[test]
fn a_palette_is_read_from_every_kind_of_tiff() {
    for (is_big, msb_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let picture = pixels(&tiff(Tiff { is_big, msb_first, pixels: Stored::Palette }));
        assert_eq!(picture.rgb[..6], [255, 254, 253, 254, 253, 252], "{is_big} {msb_first}");
    }
}

/// Each scan is a pass over the whole picture: what a thumbnail may have would keep a large one busy for minutes.
#[test]
fn the_larger_a_jpeg_the_fewer_scans_it_may_have() {
    let whole = committed("jpeg_48x33_q75_s2_p.jpg");
    let last = whole.windows(2).rposition(|marker| marker == [0xff, 0xda]).unwrap();
    let (before, scan) = (&whole[..last], &whole[last..whole.len() - 2]);
    let mut many = [before, &scan.repeat(400), &[0xff, 0xd9]].concat();
    assert_eq!(outcome(&many), "48x33");
    let frame = many.windows(2).position(|marker| marker == [0xff, 0xc2]).unwrap();
    many[frame + 5..frame + 9].copy_from_slice(&[4000_u16.to_be_bytes(), 4000_u16.to_be_bytes()].concat());
    let error = decode(&many, &DecodeLimits::default()).unwrap_err();
    assert_eq!(error.code(), "corrupt");
    assert!(error.to_string().contains("313 scans"), "{error}");
}

#[test]
fn what_is_wrong_with_a_jpeg_is_said_in_words() {
    let error = decode(&[0xff, 0xd8, 0xff, 0xd9], &DecodeLimits::default()).unwrap_err();
    assert!(error.to_string().contains("no image"), "{error}");
}

/// How a made-up TIFF of 20 x 30 pixels is written; its directory stands before its pixels.
#[derive(Clone, Copy, Default)]
struct Tiff {
    is_big: bool,
    msb_first: bool,
    pixels: Stored,
}

/// What is behind the directory.
#[derive(Clone, Copy, Default, PartialEq)]
enum Stored {
    #[default]
    Grey,
    Lzw,
    Palette,
}

fn tiff(how: Tiff) -> Vec<u8> {
    const WIDTH: u32 = 20;
    const HEIGHT: u32 = 30;
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    let samples: Vec<u8> = (0..WIDTH * HEIGHT).map(|place| place as u8).collect();
    let samples = if how.pixels == Stored::Lzw { lzw(&samples) } else { samples };
    let ordered = |value: u64, size: usize| {
        if how.msb_first {
            value.to_be_bytes()[8 - size..].to_vec()
        } else {
            value.to_le_bytes()[..size].to_vec()
        }
    };
    let number = if how.is_big { 8 } else { 4 };
    let directory = if how.is_big { 16 } else { 8 };
    let (pixels, palette) = (400, 400 + samples.len());
    let mut entries = vec![
        (256, LONG, 1, WIDTH),
        (257, LONG, 1, HEIGHT),
        (258, LONG, 1, 8),
        (259, LONG, 1, if how.pixels == Stored::Lzw { 5 } else { 1 }),
        (262, SHORT, 1, if how.pixels == Stored::Palette { 3 } else { 1 }),
        (273, LONG, 1, pixels),
        (277, LONG, 1, 1),
        (278, LONG, 1, HEIGHT),
        (279, LONG, 1, samples.len() as u32),
    ];
    entries.extend((how.pixels == Stored::Palette).then_some((320, SHORT, 768, palette as u32)));
    let mut bytes = if how.msb_first { b"MM".to_vec() } else { b"II".to_vec() };
    bytes.extend(ordered(if how.is_big { 43 } else { 42 }, 2));
    if how.is_big {
        bytes.extend([ordered(8, 2), ordered(0, 2)].concat());
    }
    bytes.extend(ordered(directory, number));
    bytes.extend(ordered(entries.len() as u64, if how.is_big { 8 } else { 2 }));
    for (tag, kind, count, value) in entries {
        let size = match (kind, count) {
            (SHORT, 1) => 2,
            (LONG, 1) => 4,
            _ => number,
        };
        let mut value = ordered(u64::from(value), size);
        value.resize(number, 0);
        bytes.extend([ordered(tag, 2), ordered(kind.into(), 2), ordered(count, number), value].concat());
    }
    bytes.resize(pixels as usize, 0);
    bytes.extend(samples);
    if how.pixels == Stored::Palette {
        for channel in 0..3 {
            bytes.extend(
                (0..256_u64).flat_map(|index| ordered((255 - index - channel.min(255 - index)) << 8, 2)),
            );
        }
    }
    bytes
}

/// LZW as TIFF has it, which looks nothing up: the table is cleared before it needs wider codes.
fn lzw(samples: &[u8]) -> Vec<u8> {
    const CLEAR: u16 = 256;
    const END: u16 = 257;
    let chunks = samples
        .chunks(200)
        .flat_map(|chunk| std::iter::once(CLEAR).chain(chunk.iter().map(|&sample| u16::from(sample))));
    let bits = chunks.chain([END]).flat_map(|code| (0..9).rev().map(move |bit| code >> bit & 1 == 1));
    let bits: Vec<bool> = bits.collect();
    bits.chunks(8)
        .map(|byte| byte.iter().enumerate().fold(0, |sum, (place, &bit)| sum | u8::from(bit) << (7 - place)))
        .collect()
}

fn exif(orientation: u8) -> Vec<u8> {
    let mut tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    tiff.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
    tiff
}

fn animated_gif() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for value in [0, 255] {
        let frame = RgbImage::from_pixel(64, 48, Rgb([value; 3]));
        encoder.encode_frame(Frame::new(DynamicImage::from(frame).to_rgba8())).unwrap();
    }
    drop(encoder);
    bytes
}

fn png_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let checksum = crc32fast::hash(&body);
    [&(data.len() as u32).to_be_bytes(), &body[..], &checksum.to_be_bytes()].concat()
}

/// One pixel of a palette, part of which is transparent, that ends within a colour.
fn odd_palette() -> Vec<u8> {
    // Two zeros, stored: the row's filter and its only pixel.
    const ROW: [u8; 13] = [0x78, 1, 1, 2, 0, 0xfd, 0xff, 0, 0, 0, 2, 0, 1];
    let chunks = [
        png_chunk(*b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0]),
        png_chunk(*b"PLTE", &[1, 2, 3, 4]),
        png_chunk(*b"tRNS", &[0]),
        png_chunk(*b"IDAT", &ROW),
        png_chunk(*b"IEND", &[]),
    ];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

/// The ordinary picture with the chunks that make it the first frame of two.
fn animated_png() -> Vec<u8> {
    let still = encoded(&gradient(64, 48), ImageFormat::Png);
    let header_end = 8 + 25;
    let data_end = still.len() - 12;
    let control = |number: u32| {
        let fields = [number, 64, 48, 0, 0].map(u32::to_be_bytes).concat();
        png_chunk(*b"fcTL", &[&fields[..], &[0, 10, 0, 100, 0, 0]].concat())
    };
    let frames = png_chunk(*b"acTL", &[2_u32, 0].map(u32::to_be_bytes).concat());
    let other = encoded(&RgbImage::new(64, 48).into(), ImageFormat::Png);
    let at = other.windows(4).position(|kind| kind == b"IDAT").unwrap();
    let length = u32::from_be_bytes(other[at - 4..at].try_into().unwrap()) as usize;
    let second = png_chunk(*b"fdAT", &[&2_u32.to_be_bytes(), &other[at + 4..at + 4 + length]].concat());
    [
        &still[..header_end],
        &frames,
        &control(0),
        &still[header_end..data_end],
        &control(1),
        &second,
        &still[data_end..],
    ]
    .concat()
}

fn riff_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = &[0][..data.len() % 2];
    [&kind[..], &(data.len() as u32).to_le_bytes(), data, padding].concat()
}

fn animated_webp() -> Vec<u8> {
    let still = encoded(&gradient(64, 48), ImageFormat::WebP);
    let picture = &still[12..];
    let size = [63, 0, 0, 47, 0, 0];
    let frame =
        |picture: &[u8]| riff_chunk(*b"ANMF", &[&[0; 6][..], &size, &[100, 0, 0, 0], picture].concat());
    let other = encoded(&RgbImage::new(64, 48).into(), ImageFormat::WebP);
    let body = [
        b"WEBP".to_vec(),
        riff_chunk(*b"VP8X", &[&[2, 0, 0, 0][..], &size].concat()),
        riff_chunk(*b"ANIM", &[0; 6]),
        frame(picture),
        frame(&other[12..]),
    ]
    .concat();
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}
