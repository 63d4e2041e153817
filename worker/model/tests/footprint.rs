//! What decoding takes in memory, beside what the header told of it. One test, so that nothing else runs in the process whose memory is
//! measured.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use captionfleet_model::preprocess::{DecodeLimits, decode, footprint, resize_square};
use image::{DynamicImage, ImageBuffer, ImageFormat};

/// Sides of a picture of ten million pixels.
const SIDES: (u32, u32) = (2500, 4000);
const SQUARE: usize = 448;
/// What the allocator and the decoders' tables take whatever the size.
const BESIDE: u64 = 3 << 20;

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// 16 bits of three channels, with a largest sample that is not the format's.
fn wide_pnm() -> Vec<u8> {
    let header = format!("P6 {} {} 60000\n", SIDES.0, SIDES.1);
    [header.as_bytes(), &[1, 2].repeat(3 * (SIDES.0 * SIDES.1) as usize)].concat()
}

/// What `/proc/self/status` says in kB, as bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn nothing_takes_more_than_its_header_tells() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let (width, height) = SIDES;
    let rgb = DynamicImage::from(image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x / 7) as u8, (y / 5) as u8, (x / 3 + y) as u8])
    }));
    let wide = DynamicImage::from(ImageBuffer::from_pixel(width, height, image::Rgba([9u16, 90, 900, 9000])));
    let narrow = DynamicImage::from(image::RgbImage::new(1, 60_000));
    let mut files: Vec<(&str, Vec<u8>)> =
        [(Jpeg, "JPEG"), (Png, "PNG"), (Bmp, "BMP"), (WebP, "WebP"), (Tiff, "TIFF")]
            .map(|(format, name)| (name, written(&rgb, format)))
            .into();
    files.push(("GIF", written(&DynamicImage::from(rgb.to_rgba8()), Gif)));
    files.push(("PNG with alpha", written(&DynamicImage::from(rgb.to_rgba8()), Png)));
    files.push(("grey PNG", written(&DynamicImage::from(rgb.to_luma8()), Png)));
    files.push(("PNG of 16 bits with alpha", written(&wide, Png)));
    files.push(("TIFF of 16 bits with alpha", written(&wide, Tiff)));
    files.push(("PNM of 16 bits", wide_pnm()));
    files.push(("a narrow PNG", written(&narrow, Png)));
    drop((rgb, wide, narrow));
    let limits = DecodeLimits { max_bytes: 1 << 30, ..DecodeLimits::default() };
    for (name, file) in files {
        let told = footprint(&file, &limits, SQUARE);
        // The most that is told from now on begins with what there is now.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmHWM:");
        let square = resize_square(&decode(&file, &limits).unwrap(), SQUARE);
        let took = status("VmHWM:") - before;
        assert_eq!(square.rgb.len(), SQUARE * SQUARE * 3);
        println!("{name}: {:.1} MB of {:.1}", took as f64 / 1e6, told as f64 / 1e6);
        assert!(took <= told + BESIDE, "{name}: {took} bytes, its header told {told}");
        assert!(told <= 4 * (took + BESIDE), "{name}: {took} bytes, its header told {told}");
    }
}
