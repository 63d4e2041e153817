//! Pictures of a few hundred bytes that claim to be huge are refused by their header, in no memory (and in no time, which is
//! printed). One test, so that nothing else runs in the process whose memory is measured.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use captionfleet_model::preprocess::{DecodeLimits, decode};
use image::{DynamicImage, ImageFormat, RgbImage};

const MOST_BYTES: u64 = 64 << 20;
/// A side that every format below can claim, or nearly.
const SIDE: u16 = 65_500;

fn committed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let checksum = crc32fast::hash(&header);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend_from_slice(&header);
    png.extend_from_slice(&checksum.to_be_bytes());
    png.extend_from_slice(b"\0\0\0\x08IDAT\x78\x9c\x03\0\0\0\0\x01");
    png
}

/// A real JPEG, of the kind that `frame` tells, that claims another size.
fn jpeg(name: &str, frame: u8) -> Vec<u8> {
    let mut jpeg = committed(name);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, frame]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&SIDE.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&SIDE.to_be_bytes());
    jpeg
}

/// The canvas and the frame on it.
fn gif() -> Vec<u8> {
    let mut gif = committed("gif_45x31.gif");
    let frame = gif.windows(10).position(|bytes| bytes[0] == b',' && bytes[5..9] == [45, 0, 31, 0]).unwrap();
    for at in [6, 8, frame + 5, frame + 7] {
        gif[at..at + 2].copy_from_slice(&SIDE.to_le_bytes());
    }
    gif
}

/// Nearly as large as the lossless format can say: 16,383 a side.
fn webp() -> Vec<u8> {
    let mut webp = committed("webp_45x31_lossless.webp");
    let bits = webp.windows(4).position(|kind| kind == b"VP8L").unwrap() + 9;
    let rest = u32::from_le_bytes(webp[bits..bits + 4].try_into().unwrap()) & 0xf000_0000;
    webp[bits..bits + 4].copy_from_slice(&(rest | (0x3ffe << 14) | 0x3ffe).to_le_bytes());
    webp
}

fn bmp() -> Vec<u8> {
    let mut bmp = committed("bmp_45x31_RGB.bmp");
    for at in [18, 22] {
        bmp[at..at + 4].copy_from_slice(&u32::from(SIDE).to_le_bytes());
    }
    bmp
}

/// Both sizes in the first directory, wherever it lies, and as many rows in its only strip.
fn tiff() -> Vec<u8> {
    let mut tiff = committed("tiff_45x31_RGB_tiff_lzw.tif");
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let entries = usize::from(u16::from_le_bytes(tiff[directory..directory + 2].try_into().unwrap()));
    for at in (0..entries).map(|entry| directory + 2 + 12 * entry) {
        let tag = u16::from_le_bytes(tiff[at..at + 2].try_into().unwrap());
        if [256, 257, 278].contains(&tag) {
            // One LONG.
            tiff[at + 2..at + 8].copy_from_slice(&[4, 0, 1, 0, 0, 0]);
            tiff[at + 8..at + 12].copy_from_slice(&u32::from(SIDE).to_le_bytes());
        }
    }
    tiff
}

/// One picture, a PNG that is larger than the directory says.
fn icon() -> Vec<u8> {
    let png = png(50_000, 50_000);
    let mut icon = vec![0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 32, 0];
    icon.extend_from_slice(&(png.len() as u32).to_le_bytes());
    icon.extend_from_slice(&22_u32.to_le_bytes());
    [icon, png].concat()
}

/// One pixel, whose strip is a JPEG that claims to be as large as its decoder takes.
fn tiff_around_jpeg() -> Vec<u8> {
    let mut strip = jpeg("jpeg_48x33_q75_s0_b.jpg", 0xc0);
    let frame = strip.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    for at in [frame + 5, frame + 7] {
        strip[at..at + 2].copy_from_slice(&16_384_u16.to_be_bytes());
    }
    let strips = (BEHIND_DIRECTORY + 6, strip.len() as u32);
    tiff_of_jpegs(1, [(1, strips.0), (1, strips.1)], &strip)
}

/// Sixty thousand rows in a megabyte, each of them said to be a JPEG of nearly the whole file.
fn tiff_of_one_strip_over_and_over() -> Vec<u8> {
    const ROWS: u32 = 60_000;
    const BYTES: u32 = 1 << 20;
    let numbers = |number: u32| number.to_le_bytes().repeat(ROWS as usize);
    let at = BEHIND_DIRECTORY + 6;
    let arrays = [numbers(8), numbers(BYTES - 8)].concat();
    let mut tiff = tiff_of_jpegs(ROWS, [(ROWS, at), (ROWS, at + 4 * ROWS)], &arrays);
    tiff.resize(BYTES as usize, 0);
    tiff
}

/// Where the sample sizes lie in what [`tiff_of_jpegs`] makes, and 6 bytes later the rest.
const BEHIND_DIRECTORY: u32 = 8 + 2 + 12 * 10 + 4;

/// One pixel wide, a strip for each row. `strips` are the fields of their places and lengths: how many numbers, and the number or
/// where the numbers are.
fn tiff_of_jpegs(rows: u32, strips: [(u32, u32); 2], rest: &[u8]) -> Vec<u8> {
    let [places, lengths] = strips;
    // Tag, number and value of each; all are LONG, but for the sample sizes.
    let fields = [
        (256, 1, 1),
        (257, 1, rows),
        (258, 3, BEHIND_DIRECTORY),
        (259, 1, 7),
        (262, 1, 2),
        (273, places.0, places.1),
        (277, 1, 3),
        (278, 1, 1),
        (279, lengths.0, lengths.1),
        (284, 1, 1),
    ];
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    tiff.extend_from_slice(&(fields.len() as u16).to_le_bytes());
    for (tag, count, value) in fields {
        let kind: u16 = if tag == 258 { 3 } else { 4 };
        tiff.extend_from_slice(&u16::to_le_bytes(tag));
        tiff.extend_from_slice(&kind.to_le_bytes());
        tiff.extend_from_slice(&u32::to_le_bytes(count));
        tiff.extend_from_slice(&value.to_le_bytes());
    }
    tiff.extend_from_slice(&[0; 4]);
    tiff.extend_from_slice(&[8, 0, 8, 0, 8, 0]);
    [&tiff, rest].concat()
}

fn chunk_of_png(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
    let content = [&kind[..], content].concat();
    let length = (content.len() as u32 - 4).to_be_bytes();
    [&length, &content[..], &crc32fast::hash(&content).to_be_bytes()].concat()
}

/// One pixel, with a colour profile of two hundred million bytes.
fn png_with_profile() -> Vec<u8> {
    // The pixels of a large black picture are nothing but zeros, and packed as a profile is.
    let mut black = std::io::Cursor::new(Vec::new());
    DynamicImage::from(image::GrayImage::new(20_000, 10_000)).write_to(&mut black, ImageFormat::Png).unwrap();
    let black = black.into_inner();
    let (mut profile, mut at) = (b"x\0\0".to_vec(), 8);
    while at < black.len() {
        let length = u32::from_be_bytes(black[at..at + 4].try_into().unwrap()) as usize;
        if &black[at + 4..at + 8] == b"IDAT" {
            profile.extend_from_slice(&black[at + 8..at + 8 + length]);
        }
        at += 12 + length;
    }
    let pixel = png(1, 1);
    let header = 8 + 12 + 13;
    [&pixel[..header], &chunk_of_png(*b"iCCP", &profile), &pixel[header..]].concat()
}

/// A canvas of one pixel, or an animation on it, around a frame of 16,383 a side.
fn webp_around_frame(animated: bool) -> Vec<u8> {
    let mut frame = committed("webp_45x31_q80.webp")[12..].to_vec();
    let sides = frame.windows(3).position(|bytes| bytes == [0x9d, 0x01, 0x2a]).unwrap() + 3;
    for at in [sides, sides + 2] {
        frame[at..at + 2].copy_from_slice(&0x3fff_u16.to_le_bytes());
    }
    let chunk =
        |kind: &[u8; 4], content: &[u8]| [&kind[..], &(content.len() as u32).to_le_bytes(), content].concat();
    let canvas = chunk(b"VP8X", &[if animated { 2 } else { 0 }, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let rest = if animated {
        [chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &[&[0; 16], &frame[..]].concat())].concat()
    } else {
        frame
    };
    let content = [b"WEBP", &canvas[..], &rest].concat();
    chunk(b"RIFF", &content)
}

/// What `/proc/self/status` says in kB, as bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The most memory that `work` had at a time beyond what there was before: pages that were touched, whoever allocated them.
fn most_memory(work: impl FnOnce()) -> u64 {
    let before = status("VmRSS");
    // Begins the peak anew. Where that is not allowed it is that of all that was measured before, which is no less.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    work();
    status("VmHWM").saturating_sub(before)
}

#[test]
#[cfg(target_os = "linux")]
fn a_header_is_judged_in_no_memory() {
    let bombs = [
        ("JPEG 65,500 x 65,500", jpeg("jpeg_named.png", 0xc0)),
        ("progressive JPEG 65,500 x 65,500", jpeg("jpeg_48x33_q75_s2_p.jpg", 0xc2)),
        ("PNG 50,000 x 50,000", png(50_000, 50_000)),
        ("PNG 2,147,483,647 x 1", png(i32::MAX as u32, 1)),
        ("GIF 65,500 x 65,500", gif()),
        ("WebP 16,383 x 16,383", webp()),
        ("BMP 65,500 x 65,500", bmp()),
        ("TIFF 65,500 x 65,500", tiff()),
        ("icon with a PNG 50,000 x 50,000", icon()),
        ("PNM 50,000 x 50,000", b"P6 50000 50000 255\n\0\0\0".to_vec()),
    ];
    let refuse = |bytes: &[u8]| decode(bytes, &DecodeLimits::default()).err().map(|error| error.code());
    println!("picture | bytes | ms | MiB");
    let mut wrong = Vec::new();
    for (name, bytes) in &bombs {
        let mut code = None;
        let memory = most_memory(|| code = refuse(bytes));
        // The quickest of several: others use the machine, too.
        let time = (0..5)
            .map(|_| {
                let since = Instant::now();
                refuse(bytes);
                since.elapsed()
            })
            .min()
            .unwrap();
        let (ms, mib) = (time.as_secs_f64() * 1e3, memory as f64 / f64::from(1 << 20));
        println!("{name} | {} | {ms:.3} | {mib:.2}", bytes.len());
        if code != Some("too_many_pixels") || memory >= MOST_BYTES {
            wrong.push(format!("{name}: {code:?}, {ms:.3} ms, {mib:.2} MiB"));
        }
    }
    // What lies inside of a small picture is judged as well.
    for (name, bytes, is_refused) in [
        ("TIFF 1 x 1 around a JPEG 16,384 x 16,384", tiff_around_jpeg(), true),
        ("WebP 1 x 1 around a frame 16,383 x 16,383", webp_around_frame(false), true),
        ("animated WebP 1 x 1 around a frame 16,383 x 16,383", webp_around_frame(true), true),
        ("PNG 1 x 1 with a profile of 200 MB", png_with_profile(), false),
    ] {
        let mut code = None;
        let memory = most_memory(|| code = refuse(&bytes));
        println!("{name} | {} | | {:.2}", bytes.len(), memory as f64 / f64::from(1 << 20));
        if memory >= MOST_BYTES || (is_refused && code != Some("corrupt")) {
            wrong.push(format!("{name}: {code:?}, {memory} bytes"));
        }
    }
    let shared = tiff_of_one_strip_over_and_over();
    let since = Instant::now();
    let code = refuse(&shared);
    println!(
        "TIFF of one strip over and over | {} | {:.3} |",
        shared.len(),
        since.elapsed().as_secs_f64() * 1e3
    );
    // To read it takes a minute.
    if code != Some("corrupt") || since.elapsed().as_secs() > 2 {
        wrong.push(format!("one strip over and over: {code:?} after {:?}", since.elapsed()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The measure sees what a picture takes that is not refused.
    let mut large = std::io::Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(6000, 6000)).write_to(&mut large, ImageFormat::Png).unwrap();
    let memory = most_memory(|| drop(decode(large.get_ref(), &DecodeLimits::default()).unwrap()));
    assert!(memory > 6000 * 6000 * 3 - (8 << 20), "{memory} bytes for 6,000 x 6,000 pixels");
}
