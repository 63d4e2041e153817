//! Films made by ffmpeg, of the demo world's scenes and of its own test pictures.

use std::path::{Path, PathBuf};
use std::process::Command;

use captionfleet_proto::job::{JobItem, SampleBy, Sampling};
use captionfleet_world::{Scene, Split};

use crate::bench::{Bench, item, scene_png};

/// Frames per second of films of scenes.
pub const RATE: u64 = 10;

/// A film of scenes, each of so many frames.
pub struct Film {
    pub path: PathBuf,
    pub scenes: Vec<(u64, u64)>,
}

impl Film {
    /// Shows one scene after another, each for the given number of frames.
    pub fn of_scenes(bench: &Bench, name: &str, frames: &[u64]) -> Self {
        let folder = bench.folder.path().join(format!("frames of {name}"));
        std::fs::create_dir(&folder).unwrap();
        let (mut number, mut scenes) = (0, Vec::new());
        for (seed, count) in (0..).zip(frames) {
            scenes.push((number, seed));
            let png = scene_png(seed);
            for _ in 0..*count {
                std::fs::write(folder.join(format!("{number:05}.png")), &png).unwrap();
                number += 1;
            }
        }
        let path = bench.folder.path().join(name);
        let (rate, input) = (RATE.to_string(), folder.join("%05d.png"));
        let input = input.to_str().unwrap();
        let encoder =
            ["-c:v", "libx264", "-crf", "4", "-preset", "veryfast", "-pix_fmt", "yuv444p", "-g", "37"];
        ffmpeg(&[&["-framerate", &rate, "-i", input][..], &encoder].concat(), &path);
        Self { path, scenes }
    }

    /// The scene that is shown at `ms`.
    pub fn scene_at(&self, ms: u64) -> Scene {
        let frame = ms * RATE / 1000;
        let (_, seed) = self.scenes.iter().rev().find(|(first, _)| *first <= frame).unwrap();
        Scene::sample(*seed, Split::HeldOut)
    }

    pub fn segment(&self, start_ms: u64, span_ms: Option<u64>, sampling: Sampling) -> JobItem {
        segment(&self.path, start_ms, span_ms, sampling)
    }
}

pub fn segment(path: &Path, start_ms: u64, span_ms: Option<u64>, sampling: Sampling) -> JobItem {
    JobItem { frame_ms: Some(start_ms), span_ms, sample: Some(sampling), ..item(path) }
}

pub fn every(ms: u64, min_change: f64) -> Sampling {
    Sampling { by: SampleBy::Interval { every_us: ms * 1000 }, min_change }
}

/// Makes a film of ffmpeg's moving test picture, of so many seconds.
pub fn test_film(path: &Path, rate: u64, seconds: u64, encoder: &[&str]) {
    let source = format!("testsrc2=size=64x48:rate={rate}:duration={seconds}");
    ffmpeg(&[&["-f", "lavfi", "-i", &source][..], encoder].concat(), path);
}

/// Overwrites `bytes` bytes of a film from the first key frame on that is shown at `ms` or later.
pub fn damage(path: &Path, ms: u64, bytes: usize) {
    let told = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=pts_time,pos,flags"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    let place = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let is_it = fields[2].starts_with('K') && fields[0].parse::<f64>().ok()? * 1000.0 >= ms as f64;
        is_it.then(|| fields[1].parse::<usize>().ok())?
    });
    let place = place.unwrap();
    let mut film = std::fs::read(path).unwrap();
    film[place..place + bytes].fill(0xa5);
    std::fs::write(path, film).unwrap();
}

/// Makes a film, whatever it takes.
pub fn ffmpeg(arguments: &[&str], out: &Path) {
    captionfleet_world::film::ffmpeg(arguments, out).unwrap();
}

/// The times of a film's frames in rounded milliseconds as ffprobe tells them, and whether each is a key frame.
pub fn times(path: &Path) -> Vec<(u64, bool)> {
    let told = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts_time,key_frame"])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    text.lines()
        .filter_map(|line| {
            let (key, rest) = line.split_once(',')?;
            // Six digits behind the point: whole microseconds, so that halves of a millisecond are seen as such.
            let us: u64 = rest.split(',').next()?.replace('.', "").parse().ok()?;
            Some(((us + 500) / 1000, key == "1"))
        })
        .collect()
}
