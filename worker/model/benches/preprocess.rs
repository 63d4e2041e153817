//! A JPEG of 640 × 480 to the network's input, on one core, beside Pillow doing the same.
//!
//! `cargo bench -p captionfleet-model --bench preprocess [-- PYTHON [FILE]]`
//!
//! `PYTHON` is an interpreter that has Pillow (`python3` otherwise; without Pillow only our own figures are printed), `FILE`
//! a picture to take instead of the drawn one. Every figure is the best of several rounds, ours and Pillow's by turns.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/peer.rs"]
mod peer;

use std::hint::black_box;
use std::time::Instant;

use captionfleet_model::preprocess::{DecodeLimits, Picture, decode, resize_square};
use image::codecs::jpeg::JpegEncoder;
use peer::Peer;

/// The published model's input.
const SIDE: usize = 224;
const ROUNDS: usize = 7;
/// Pictures of one round.
const PICTURES: usize = 100;

/// Answers each line, a number of pictures, with the seconds for decoding and for decoding and resizing as many.
const PILLOW: &str = "
import io, sys, time
from PIL import Image
data = open(sys.argv[1], 'rb').read()
side = int(sys.argv[2])
def rgb():
    return Image.open(io.BytesIO(data)).convert('RGB')
def both():
    return rgb().resize((side, side), Image.Resampling.BICUBIC)
for line in sys.stdin:
    answer = []
    for run in (lambda: rgb().load(), both):
        started = time.perf_counter()
        for _ in range(int(line)):
            run()
        answer.append(time.perf_counter() - started)
    print(*answer, flush=True)
";

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let python = words.next().unwrap_or_else(|| "python3".to_owned());
    let bytes = words.next().map_or_else(drawn, |file| std::fs::read(file).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let mut pillow = Peer::start(&python, PILLOW, &[file.path().as_os_str(), SIDE.to_string().as_ref()]);

    let (mut ours, mut theirs) = ([f64::INFINITY; 2], [f64::INFINITY; 2]);
    for _ in 0..ROUNDS {
        let of_decoding = seconds(|| drop(black_box(picture(&bytes))));
        let of_both = seconds(|| drop(black_box(resize_square(&picture(&bytes), SIDE))));
        ours = [ours[0].min(of_decoding), ours[1].min(of_both)];
        if let Some(times) = pillow.as_mut().and_then(|pillow| pillow.seconds(&PICTURES.to_string())) {
            let [of_decoding, of_both] = times.map(|seconds| seconds / PICTURES as f64);
            theirs = [theirs[0].min(of_decoding), theirs[1].min(of_both)];
        }
    }
    println!("one core, best of {ROUNDS} rounds of {PICTURES} pictures; {} bytes each", bytes.len());
    println!("                     ms     pictures/s   beside Pillow");
    for (what, at) in [("decode", 0), ("decode and resize", 1)] {
        let ratio =
            if theirs[at].is_finite() { format!("{:.2} x", theirs[at] / ours[at]) } else { "-".into() };
        println!("{what:<17} {:6.3}  {:12.0}   {ratio}", 1000.0 * ours[at], 1.0 / ours[at]);
    }
}

fn picture(bytes: &[u8]) -> Picture {
    decode(bytes, &DecodeLimits::default()).unwrap()
}

/// Seconds for one picture.
fn seconds(mut run: impl FnMut()) -> f64 {
    let since = Instant::now();
    for _ in 0..PICTURES {
        run();
    }
    since.elapsed().as_secs_f64() / PICTURES as f64
}

/// Soft shapes with some noise, as a photograph has.
fn drawn() -> Vec<u8> {
    let (width, height) = (640u32, 480u32);
    let mut noise = 1u32;
    let picture = image::RgbImage::from_fn(width, height, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = (noise >> 28) as f32;
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let wave = |a: f32, b: f32| 110.0 + 90.0 * (a * u + b * v).sin() * (b * u - a * v).cos() + grain;
        image::Rgb([wave(9.0, 5.0) as u8, wave(4.0, 17.0) as u8, wave(23.0, 8.0) as u8])
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture).unwrap();
    bytes
}
