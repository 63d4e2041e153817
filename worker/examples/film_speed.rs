//! How fast frames come out of a film and are compared, beside ffmpeg alone:
//! `cargo run --release -p captionfleet-worker --example film_speed -- FILM [EVERY_MS]`
#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use captionfleet_model::preprocess::{Picture, resize_square};
use captionfleet_proto::job::{SampleBy, Sampling};
use captionfleet_worker::video::{Approach, Decoding, Sampler, Seen, Signature, Span, VideoLimits, probe};

/// Side of the full-size network's input.
const SIDE: usize = 224;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let film = arguments.next().context("name a film")?;
    let every_ms: u64 = match arguments.next() {
        Some(every) => every.to_string_lossy().parse().context("EVERY_MS is a number")?,
        None => 1000,
    };
    let path = std::path::absolute(Path::new(&film))?;
    let limits = VideoLimits::default();

    let started = Instant::now();
    let alone = tokio::process::Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-threads", &limits.threads.to_string(), "-i"])
        .arg(&path)
        .args(["-map", "0:v:0", "-f", "null", "-"])
        .status()
        .await?;
    anyhow::ensure!(alone.success(), "ffmpeg alone fails on this film");
    let alone = started.elapsed().as_secs_f64();

    let sampling = Sampling { by: SampleBy::Interval { every_us: every_ms * 1000 }, ..Sampling::default() };
    let started = Instant::now();
    let film = probe(&path, &limits).await?;
    let span = Span { start_ms: 0, end_ms: None };
    let mut decoding =
        Decoding::start(&path, &film, span, &sampling, Approach { from_ms: 0, strict: true }, &limits)?;
    let mut sampler = Sampler::new(sampling);
    let (mut looked_at, mut kept) = (0_u64, 0_u64);
    while let Some(frame) = decoding.next().await? {
        looked_at += 1;
        let (width, height) = (film.width as usize, film.height as usize);
        if sampler.see(frame.ms, Signature::of(&frame.rgb, width, height)) == Seen::Kept {
            kept += 1;
            std::hint::black_box(resize_square(
                &Picture { width: film.width, height: film.height, rgb: frame.rgb },
                SIDE,
            ));
        }
    }
    if let Some(failure) = decoding.end().await?.failure {
        anyhow::bail!("the film is damaged: {failure}");
    }
    let here = started.elapsed().as_secs_f64();
    let frames = film.end_ms.unwrap_or(0) / film.frame_ms.max(1);
    let rate = |seconds: f64| frames as f64 / seconds;
    println!("frames decoded   about {frames}, looked at {looked_at}, kept {kept}");
    println!("ffmpeg alone     {alone:.1} s, {:.0} frames/s", rate(alone));
    println!("decode and drop  {here:.1} s, {:.0} frames/s, {:.0} %", rate(here), 100.0 * alone / here);
    Ok(())
}
