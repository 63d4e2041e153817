//! Decoding and resizing against Pillow: the goldens, and a corpus with the hashes that Pillow gave.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use captionfleet_model::preprocess::{
    DecodeError, DecodeLimits, Picture, decode, pixel_values, resize_square,
};
use sha2::{Digest, Sha256};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn read(bytes: &[u8]) -> Result<Picture, DecodeError> {
    decode(bytes, &DecodeLimits::default())
}

#[test]
fn golden_pictures_are_equal_to_the_last_byte() {
    let golden =
        candle_core::safetensors::load(tests().join("golden/golden.safetensors"), &Device::Cpu).unwrap();
    let bytes = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let names = ["img0_rgb.png", "img1_gray.jpg", "img2_rgba.png"];
    for (index, name) in names.iter().enumerate() {
        let picture = read(&std::fs::read(tests().join("golden/images").join(name)).unwrap()).unwrap();
        assert_eq!(picture.rgb, bytes(&format!("img{index}/decoded_rgb_u8")), "{name}");
        for (run, size) in [("s3", 224), ("s4", 448)] {
            let square = resize_square(&picture, size);
            assert!(square.rgb == bytes(&format!("{run}/img{index}/resized_u8")), "{name} at {size}");
            if let Some(wanted) = golden.get(&format!("{run}/img{index}/pixel_values")) {
                let pixels = pixel_values(&[&square], &Device::Cpu).unwrap();
                let pixels = pixels.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(
                    pixels == wanted.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                    "{name} at {size}"
                );
            }
        }
    }
}

/// One line of a corpus: file, `WIDTHxHEIGHT` or the error code, SHA-256 of the RGB bytes, and for resizes
/// `SIZE:SHA-256`.
fn check_line(folder: &Path, line: &str) -> Result<(), String> {
    let mut cells = line.split_whitespace();
    let (name, size) = (cells.next().unwrap(), cells.next().unwrap());
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let picture = match read(&bytes) {
        Ok(picture) => picture,
        Err(error) if error.code() == size => return Ok(()),
        Err(error) => return Err(format!("{name}: {error} instead of {size}")),
    };
    if format!("{}x{}", picture.width, picture.height) != size {
        return Err(format!("{name}: {picture:?} instead of {size}"));
    }
    if hex::encode(Sha256::digest(&picture.rgb)) != cells.next().unwrap() {
        return Err(format!("{name}: other pixels than Pillow's"));
    }
    for resized in cells {
        let (size, hash) = resized.split_once(':').unwrap();
        let square = resize_square(&picture, size.parse().unwrap());
        if hex::encode(Sha256::digest(&square.rgb)) != hash {
            return Err(format!("{name}: resized to {size} otherwise than by Pillow"));
        }
    }
    Ok(())
}

/// `CAPTIONFLEET_PILLOW_CORPUS` names a larger corpus made by `tests/pictures/make.py`.
#[test]
fn every_picture_of_the_corpus_decodes_as_pillow_does() {
    let committed = tests().join("pictures");
    let folder = std::env::var_os("CAPTIONFLEET_PILLOW_CORPUS").map_or(committed, PathBuf::from);
    let list = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
    let wrong: Vec<String> = list.lines().filter_map(|line| check_line(&folder, line).err()).collect();
    assert!(list.lines().count() > 40);
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), list.lines().count(), wrong.join("\n"));
}

/// The shortest of a few runs, so that a busy machine does not fail the test.
fn fastest(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..5).map(|_| once(&mut work)).min().unwrap()
}

#[test]
fn a_file_above_the_limit_is_not_looked_at() {
    let limits = DecodeLimits { max_bytes: 10, ..DecodeLimits::default() };
    assert_eq!(decode(b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &limits).unwrap_err().code(), "too_large");
}

#[test]
fn a_very_wide_picture_works() {
    let row: Vec<u8> = (0..20_000 * 3).map(|index| (index % 251) as u8).collect();
    let picture = image::RgbImage::from_raw(20_000, 1, row.clone()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let decoded = read(bytes.get_ref()).unwrap();
    assert_eq!((decoded.width, decoded.height), (20_000, 1));
    assert_eq!(decoded.rgb, row);
    let square = resize_square(&decoded, 224);
    // one row stays one colour per column
    assert_eq!(square.rgb[..224 * 3], square.rgb[223 * 224 * 3..]);
}

/// No bytes may take the process down, and whatever comes out must be what it says.
#[test]
fn damaged_pictures_never_panic() {
    let mut tried = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % bound
    };
    for entry in std::fs::read_dir(tests().join("pictures")).unwrap() {
        let path = entry.unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        if whole.is_empty()
            || path.extension().is_some_and(|extension| extension == "py" || extension == "txt")
        {
            continue;
        }
        for round in 0..30 {
            let mut bytes = whole.clone();
            if round % 3 == 0 {
                bytes.truncate(next(bytes.len()));
            }
            for _ in 0..=round % 5 {
                if !bytes.is_empty() {
                    let place = if round % 2 == 0 { next(bytes.len().min(64)) } else { next(bytes.len()) };
                    bytes[place] = next(256) as u8;
                }
            }
            let limits = DecodeLimits { max_pixels: 4_000_000, ..DecodeLimits::default() };
            match decode(&bytes, &limits) {
                Ok(picture) => {
                    assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
                    let _ = resize_square(&picture, 16);
                }
                Err(error) => assert!(!error.code().is_empty()),
            }
            tried += 1;
        }
    }
    assert!(tried > 2000);
}

/// Not a test of correctness: prints what a 640 x 480 photograph costs. Run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_a_photograph() {
    let file = std::env::var_os("CAPTIONFLEET_PHOTOGRAPH").expect("CAPTIONFLEET_PHOTOGRAPH names a JPEG");
    let bytes = std::fs::read(file).unwrap();
    let picture = read(&bytes).unwrap();
    println!("decode {:?}", fastest(|| drop(read(&bytes).unwrap())));
    for size in [224, 448] {
        println!("resize to {size} {:?}", fastest(|| drop(resize_square(&picture, size))));
    }
}
