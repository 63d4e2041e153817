//! What decoding takes in memory, beside what the header told of it. One test, so that nothing else allocates in the process meanwhile.
//! libjpeg's own memory is not seen.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use captionfleet_model::preprocess::{DecodeLimits, decode, footprint, resize_square};
use image::{DynamicImage, ImageBuffer, ImageFormat};

/// Sides of a picture of three million pixels.
const SIDES: (u32, u32) = (1500, 2000);
const SQUARE: usize = 448;
/// What the decoders' tables take whatever the size.
const BESIDE: u64 = 1 << 20;

/// The system's memory, counted.
struct Counted {
    used: AtomicUsize,
    most: AtomicUsize,
}

#[global_allocator]
static MEMORY: Counted = Counted { used: AtomicUsize::new(0), most: AtomicUsize::new(0) };

// SAFETY: every call goes to the system's allocator as it came; a larger place for what grows is a new one, as by default.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.most.fetch_max(self.used.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.most.fetch_max(self.used.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.dealloc(place, layout) }
    }
}

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
        let before = MEMORY.used.load(Relaxed);
        MEMORY.most.store(before, Relaxed);
        let square = resize_square(&decode(&file, &limits).unwrap(), SQUARE);
        let took = (MEMORY.most.load(Relaxed) - before) as u64;
        assert_eq!(square.rgb.len(), SQUARE * SQUARE * 3);
        println!("{name}: {:.1} MB of {:.1}", took as f64 / 1e6, told as f64 / 1e6);
        assert!(took <= told + BESIDE, "{name}: {took} bytes, its header told {told}");
        assert!(told <= 4 * (took + BESIDE), "{name}: {took} bytes, its header told {told}");
    }
}
