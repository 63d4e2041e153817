//! How fast frames come out of a film and are compared, beside ffmpeg alone:
//! `cargo run --release -p captionfleet-worker --example film_speed -- [--every MS] [FILM …]`
//!
//! Without a film it makes two of its own: one that moves, and a still one with a little noise. What is compared is
//! processor time, ours and that of the programs that we start, because the clock tells more about whoever else is at work
//! on the machine. Each film is taken three times in turns; the lowest sums count.
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use captionfleet_model::preprocess::{Picture, resize_square};
use captionfleet_proto::job::{SampleBy, Sampling};
use captionfleet_worker::video::{Approach, Decoding, Film, Sampler, Seen, Span, VideoLimits, probe};

/// Side of the full-size network's input.
const SIDE: usize = 224;
const TURNS: usize = 3;
/// Names, sources and lengths in seconds of the films that are made: of twenty seconds again and again.
const FILMS: [(&str, &str, &str); 2] = [
    ("moving", "testsrc2=size=640x360:rate=25:duration=20", "120"),
    ("still", "smptebars=size=640x360:rate=10:duration=20,noise=alls=1:allf=t", "1800"),
];

/// What one film came to.
struct Counted {
    looked_at: u64,
    kept: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (mut every_ms, mut films) = (1000, Vec::new());
    while let Some(argument) = arguments.next() {
        if argument == "--every" {
            let every = arguments.next().context("--every needs milliseconds")?;
            every_ms = every.to_string_lossy().parse().context("--every is a number of milliseconds")?;
        } else {
            films.push(std::path::absolute(Path::new(&argument))?);
        }
    }
    let folder = tempfile::tempdir()?;
    if films.is_empty() {
        for (name, source, seconds) in FILMS {
            films.push(make(folder.path(), name, source, seconds).await?);
        }
    }
    let sampling = Sampling { by: SampleBy::Interval { every_us: every_ms * 1000 }, ..Sampling::default() };
    println!("| film | frames | looked at | kept | ffmpeg alone | decode and drop | |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for path in films {
        let limits = VideoLimits::default();
        let film = probe(&path, &limits).await?;
        let (mut alone, mut here, mut counted) = (f64::INFINITY, f64::INFINITY, None);
        for _ in 0..TURNS {
            let before = processor_seconds()?;
            decode_alone(&path, &limits).await?;
            let between = processor_seconds()?;
            counted = Some(decode_and_drop(&path, &film, &sampling, &limits).await?);
            let behind = processor_seconds()?;
            (alone, here) = (alone.min(between - before), here.min(behind - between));
        }
        let Counted { looked_at, kept } = counted.context("no turn was taken")?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let frames = film.end_ms.unwrap_or(0) / film.frame_ms.max(1);
        let share = 100.0 * alone / here;
        println!("| {name} | {frames} | {looked_at} | {kept} | {alone:.2} s | {here:.2} s | {share:.0} % |");
    }
    Ok(())
}

/// Processor time so far, ours and that of programs that have ended, in seconds.
#[cfg(target_os = "linux")]
fn processor_seconds() -> anyhow::Result<f64> {
    let stat = procfs::process::Process::myself()?.stat()?;
    let ticks = stat.utime + stat.stime + stat.cutime.unsigned_abs() + stat.cstime.unsigned_abs();
    Ok(ticks as f64 / procfs::ticks_per_second() as f64)
}

#[cfg(not(target_os = "linux"))]
fn processor_seconds() -> anyhow::Result<f64> {
    anyhow::bail!("processor time is read from /proc: only on Linux")
}

async fn make(folder: &Path, name: &str, source: &str, seconds: &str) -> anyhow::Result<PathBuf> {
    let (piece, path) = (folder.join("piece.mp4"), folder.join(format!("{name}.mp4")));
    let encoder = ["-c:v", "libx264", "-preset", "superfast", "-crf", "24", "-pix_fmt", "yuv420p"];
    ffmpeg([&["-f", "lavfi", "-i", source][..], &encoder, &[text(&piece)?]].concat()).await?;
    let repeated = ["-stream_loop", "-1", "-i", text(&piece)?, "-c", "copy", "-t", seconds, text(&path)?];
    ffmpeg(repeated.to_vec()).await?;
    Ok(path)
}

async fn decode_alone(path: &Path, limits: &VideoLimits) -> anyhow::Result<()> {
    let threads = limits.threads.to_string();
    ffmpeg(vec!["-threads", &threads, "-i", text(path)?, "-map", "0:v:0", "-f", "null", "-"]).await
}

async fn decode_and_drop(
    path: &Path,
    film: &Film,
    sampling: &Sampling,
    limits: &VideoLimits,
) -> anyhow::Result<Counted> {
    let span = Span { start_ms: 0, end_ms: None };
    let approach = Approach { from_ms: 0, strict: true };
    let mut decoding = Decoding::start(path, film, span, sampling, approach, limits)?;
    let mut sampler = Sampler::new(*sampling);
    let mut counted = Counted { looked_at: 0, kept: 0 };
    while let Some(frame) = decoding.next().await? {
        counted.looked_at += 1;
        if sampler.see(frame.ms, frame.signature()) == Seen::Kept {
            counted.kept += 1;
            let picture = Picture { width: film.width, height: film.height, rgb: frame.into_rgb() };
            std::hint::black_box(resize_square(&picture, SIDE));
        }
    }
    match decoding.end().await?.failure {
        Some(failure) => anyhow::bail!("the film is damaged: {failure}"),
        None => Ok(counted),
    }
}

async fn ffmpeg(arguments: Vec<&str>) -> anyhow::Result<()> {
    let program = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(&arguments)
        .status()
        .await
        .context("ffmpeg cannot be started")?;
    anyhow::ensure!(program.success(), "ffmpeg fails: {}", arguments.join(" "));
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
