//! Random company for a long time: prompts and answers of all lengths, batches of all sizes, people who ask and people who
//! leave, while memory is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use captionfleet_model::SamplingOptions;
use captionfleet_model::preprocess::PreparedPicture;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::printer::Printer;
use crate::app::{EngineSettings, ReadyModel};
use crate::engine::memory::Meter;
use crate::engine::{Ask, CaptionRequest, EngineError, EngineHandle, Priority, Unobserved};

/// Samples of one run; as many lines are told.
const SAMPLES: u32 = 30;
/// The share of requests that nobody waits for.
const LEAVE: f64 = 0.1;
/// The share of requests that a person waits for.
const PEOPLE: f64 = 0.1;
/// Longest answer in tokens.
const LONGEST: usize = 64;
/// Words that a question is filled up with, to give prompts all lengths.
const WORDS: usize = 40;

/// What came of it.
#[derive(Serialize)]
pub(super) struct Soak {
    pub(super) seconds: f64,
    pub(super) answered: u64,
    pub(super) cancelled: u64,
    /// Bytes in use on the device, evenly spaced in time.
    pub(super) memory: Vec<u64>,
    /// Slope of a straight line through the second half of the samples, when every buffer has been used.
    pub(super) growth_bytes_per_minute: f64,
}

#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    cancelled: AtomicU64,
}

pub(super) async fn run(
    model: &ReadyModel,
    settings: EngineSettings,
    pictures: &[PreparedPicture],
    duration: Duration,
    printer: Printer,
) -> anyhow::Result<Soak> {
    let engine = model.start(settings, Arc::new(Unobserved))?;
    let handle = engine.handle();
    printer.line(format_args!("\n{}\n\n  seconds  answered  cancelled      in use", handle.info().memory));
    let meter = Meter::new(model.loaded().model.device());
    let (tally, since) = (Tally::default(), Instant::now());
    let load = crowd(&handle, pictures, &tally, since + duration);
    let watch = async {
        let mut memory = Vec::new();
        for sample in 1..=SAMPLES {
            let at = since + duration * sample / SAMPLES;
            tokio::time::sleep_until(at.into()).await;
            let used = meter.used();
            printer.line(format_args!(
                "{:9.1}  {:8}  {:9}  {:>10}",
                since.elapsed().as_secs_f64(),
                tally.answered.load(Ordering::Relaxed),
                tally.cancelled.load(Ordering::Relaxed),
                ByteSize(used).to_string()
            ));
            memory.push(used);
        }
        memory
    };
    let (ended, memory) = tokio::join!(load, watch);
    ended?;
    let seconds = since.elapsed().as_secs_f64();
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    let per_sample = slope(&memory[memory.len() / 2..]);
    let growth = per_sample * f64::from(SAMPLES) / duration.as_secs_f64() * 60.0;
    printer.line(format_args!("growth in the second half: {:.2} MiB a minute", growth / f64::from(1 << 20)));
    Ok(Soak {
        seconds,
        answered: tally.answered.into_inner(),
        cancelled: tally.cancelled.into_inner(),
        memory,
        growth_bytes_per_minute: growth,
    })
}

/// Wave after wave of requests, each wave of another size.
async fn crowd(
    handle: &EngineHandle,
    pictures: &[PreparedPicture],
    tally: &Tally,
    until: Instant,
) -> Result<(), EngineError> {
    let mut random = StdRng::seed_from_u64(1);
    while Instant::now() < until {
        let size = random.random_range(1..=3 * handle.info().slots);
        let wave: Vec<_> = (0..size)
            .map(|_| {
                let leaves = random.random_bool(LEAVE);
                let patience = Duration::from_millis(random.random_range(0..200));
                ask(handle, request(handle, pictures, &mut random), leaves.then_some(patience), tally)
            })
            .collect();
        for answer in join_all(wave).await {
            answer?;
        }
    }
    Ok(())
}

/// Asks, and leaves when patience ends.
async fn ask(
    handle: &EngineHandle,
    request: CaptionRequest,
    patience: Option<Duration>,
    tally: &Tally,
) -> Result<(), EngineError> {
    let answer = handle.caption(request);
    let answer = if let Some(patience) = patience {
        let Ok(answer) = tokio::time::timeout(patience, answer).await else {
            tally.cancelled.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        answer
    } else {
        answer.await
    };
    match answer {
        // Random prompts are often answered with noise, and long ones may not fit.
        Ok(_) | Err(EngineError::Degenerate(_) | EngineError::PromptTooLong { .. }) => {
            tally.answered.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn request(handle: &EngineHandle, pictures: &[PreparedPicture], random: &mut StdRng) -> CaptionRequest {
    let info = handle.info();
    let words = "colour ".repeat(random.random_range(0..WORDS));
    let prompt = if random.random_bool(0.5) {
        info.prompts.caption.clone()
    } else {
        info.prompts.ask.replace("{question}", &format!("What is the {words}?"))
    };
    let picture = pictures[random.random_range(0..pictures.len())].clone();
    let sampling = SamplingOptions {
        max_new_tokens: random.random_range(1..=LONGEST),
        temperature: 1.0,
        seed: random.random(),
        ..SamplingOptions::default()
    };
    CaptionRequest {
        picture,
        asks: Ask::alone(prompt.into(), sampling),
        adapter: None,
        embed: info.embedding_space.is_some() && random.random_bool(0.5),
        priority: if random.random_bool(PEOPLE) { Priority::Interactive } else { Priority::Bulk },
    }
}

/// Least squares over evenly spaced samples; per sample.
fn slope(samples: &[u64]) -> f64 {
    let count = samples.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = samples.iter().map(|&bytes| bytes as f64).sum::<f64>() / count;
    let (mut product, mut square) = (0.0, 0.0);
    for (at, &bytes) in samples.iter().enumerate() {
        product += (at as f64 - middle) * (bytes as f64 - mean);
        square += (at as f64 - middle).powi(2);
    }
    if square > 0.0 { product / square } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_straight_line_has_its_slope() {
        assert!((slope(&[10, 13, 16, 19]) - 3.0).abs() < 1e-9);
        assert!(slope(&[7, 7, 7]).abs() < 1e-9);
        assert!(slope(&[7]).abs() < 1e-9);
    }
}
