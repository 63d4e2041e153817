//! How long a query's embedding takes while nothing else goes on, and while every slot captions and more pictures wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use captionfleet_model::SamplingOptions;
use captionfleet_model::preprocess::PreparedPicture;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::printer::Printer;
use crate::app::{EngineSettings, ReadyModel};
use crate::engine::{Ask, CaptionRequest, EngineError, EngineHandle, EngineObserver, Priority, Stage};

/// Captions under way for each slot: as many again are always waiting.
const PER_SLOT: usize = 3;
/// Texts to embed, of a usual query's length.
const TEXTS: [&str; 4] = [
    "a red star on a white background",
    "two people on a boat",
    "a small blue circle left of a large green square",
    "three yellow crosses",
];
/// Pauses between queries are drawn up to so many times as long as one takes, so that they come at any moment of a step.
const PAUSE: u32 = 20;
/// The longest pause is not shorter than this.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Serialize)]
pub(super) struct Queries {
    pub(super) queries: usize,
    /// Median of the decode steps while captions went on, in milliseconds.
    pub(super) decode_step_ms: f64,
    /// Pictures captioned a second while queries came.
    pub(super) pictures_per_second: f64,
    pub(super) text: Waits,
    pub(super) picture: Waits,
}

/// Waits for one kind of query.
#[derive(Serialize)]
pub(super) struct Waits {
    pub(super) idle: Spread,
    pub(super) loaded: Spread,
    /// By how many decode steps the 99th percentile is later under load.
    pub(super) later_by_steps: f64,
}

/// Percentiles in milliseconds.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = ((times.len().max(1) - 1) as f64 * share).round() as usize;
            times.get(place).map_or(0.0, |time| 1e3 * time.as_secs_f64())
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// The times of all decode steps so far.
#[derive(Default)]
struct Decodes(Mutex<Vec<Duration>>);

impl EngineObserver for Decodes {
    fn stage(&self, stage: Stage, seconds: f64, _: usize, _: usize) {
        if stage == Stage::Decode {
            let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            times.push(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
    }

    fn tokens(&self, _: usize) {}
    fn out_of_memory(&self, _: Stage, _: usize) {}
    fn idle(&self, _: f64) {}
}

pub(super) async fn run(
    model: &ReadyModel,
    settings: EngineSettings,
    pictures: &Arc<Vec<PreparedPicture>>,
    count: usize,
    max_tokens: usize,
    printer: Printer,
) -> anyhow::Result<Queries> {
    anyhow::ensure!(
        model.loaded().model.retrieval().is_some(),
        "this bundle has no retrieval heads, so it embeds no queries: pack it with --itc"
    );
    let decodes = Arc::new(Decodes::default());
    let engine = model.start(settings, decodes.clone())?;
    let handle = engine.handle();
    // Once, so that no buffer is new any more.
    handle.embed_text(TEXTS[0].to_owned()).await?;
    handle.embed_picture(pictures[0].clone()).await?;
    let idle = ask(&handle, pictures, count).await?;
    let load = Load::start(&handle, pictures, max_tokens);
    load.until_full().await;
    let (since, before) = (Instant::now(), load.done.load(Ordering::Relaxed));
    decodes.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let loaded = ask(&handle, pictures, count).await?;
    let captioned = load.done.load(Ordering::Relaxed) - before;
    let pictures_per_second = captioned as f64 / since.elapsed().as_secs_f64();
    load.stop().await?;
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    let steps = std::mem::take(&mut *decodes.0.lock().unwrap_or_else(PoisonError::into_inner));
    let step = Spread::of(steps).p50;
    let waits = |idle: Spread, loaded: Spread| Waits {
        idle,
        loaded,
        later_by_steps: if step > 0.0 { (loaded.p99 - idle.p99) / step } else { 0.0 },
    };
    let found = Queries {
        queries: count,
        decode_step_ms: step,
        pictures_per_second,
        text: waits(idle.0, loaded.0),
        picture: waits(idle.1, loaded.1),
    };
    printer.queries(&found);
    Ok(found)
}

/// Embeds `count` texts and `count` pictures, one after the other.
async fn ask(
    handle: &EngineHandle,
    pictures: &[PreparedPicture],
    count: usize,
) -> Result<(Spread, Spread), EngineError> {
    let mut random = StdRng::seed_from_u64(1);
    let (mut texts, mut seen) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for number in 0..count {
        let since = Instant::now();
        handle.embed_text(TEXTS[number % TEXTS.len()].to_owned()).await?;
        texts.push(since.elapsed());
        pause(since.elapsed(), &mut random).await;
        let picture = pictures[number % pictures.len()].clone();
        let since = Instant::now();
        handle.embed_picture(picture).await?;
        seen.push(since.elapsed());
        pause(since.elapsed(), &mut random).await;
    }
    Ok((Spread::of(texts), Spread::of(seen)))
}

async fn pause(took: Duration, random: &mut StdRng) {
    let longest = (PAUSE * took).clamp(LEAST_PAUSE, Duration::from_secs(1));
    tokio::time::sleep(longest.mul_f64(random.random::<f64>())).await;
}

/// Captions without end.
struct Load {
    tasks: JoinSet<Result<(), EngineError>>,
    done: Arc<AtomicUsize>,
    enough: usize,
    stop: CancellationToken,
}

impl Load {
    fn start(handle: &EngineHandle, pictures: &Arc<Vec<PreparedPicture>>, max_tokens: usize) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let at_once = PER_SLOT * handle.info().slots;
        for first in 0..at_once {
            let (handle, pictures) = (handle.clone(), Arc::clone(pictures));
            let (done, stop) = (Arc::clone(&done), stop.clone());
            tasks.spawn(async move {
                let prompt: Arc<str> = handle.info().prompts.caption.as_str().into();
                let embed = handle.info().embedding_space.is_some();
                for number in (first..).step_by(at_once) {
                    // Drawn weights say the same token for ever unless chance has a say.
                    let (temperature, seed) = (1.0, number as u64);
                    let sampling = SamplingOptions {
                        max_new_tokens: max_tokens,
                        temperature,
                        seed,
                        ..SamplingOptions::default()
                    };
                    let asked = handle.caption(CaptionRequest {
                        picture: pictures[number % pictures.len()].clone(),
                        asks: Ask::alone(prompt.clone(), sampling),
                        adapter: None,
                        embed,
                        priority: Priority::Bulk,
                    });
                    let answer = tokio::select! {
                        answer = asked => answer,
                        () = stop.cancelled() => break,
                    };
                    match answer {
                        Ok(_) | Err(EngineError::Degenerate(_)) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return Err(error),
                    };
                }
                Ok(())
            });
        }
        Self { tasks, done, enough: handle.info().slots, stop }
    }

    /// Waits until the slots have been filled and are being filled again.
    async fn until_full(&self) {
        while self.done.load(Ordering::Relaxed) < self.enough && !self.tasks.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
