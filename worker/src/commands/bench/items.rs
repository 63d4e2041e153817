//! Pictures in memory through the whole engine, by number of slots.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use captionfleet_model::SamplingOptions;
use captionfleet_model::preprocess::PreparedPicture;
use futures::future::join_all;

use super::report::Items;
use crate::app::{EngineSettings, ReadyModel};
use crate::engine::memory::Meter;
use crate::engine::{Ask, CaptionRequest, EngineError, EngineObserver, Priority, Stage};

/// How full the decode batches were, while there was anything to fill them with.
#[derive(Default)]
struct Fill(Mutex<FillSoFar>);

#[derive(Default)]
struct FillSoFar {
    steps: Vec<f64>,
    /// Decode steps up to the last time that a sequence was seated: afterwards nothing waited.
    while_waiting: usize,
    tokens: usize,
}

impl EngineObserver for Fill {
    fn stage(&self, stage: Stage, _: f64, rows: usize, capacity: usize) {
        let mut so_far = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stage {
            Stage::Decode => so_far.steps.push((rows as f64 / capacity.max(1) as f64).min(1.0)),
            Stage::Prefill => so_far.while_waiting = so_far.steps.len(),
            Stage::Text | Stage::Vision | Stage::Null => {}
        }
    }

    fn tokens(&self, count: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tokens += count;
    }

    fn out_of_memory(&self, _: Stage, _: usize) {}
    fn idle(&self, _: f64) {}
}

/// Captions all `pictures`, embeddings included where the bundle makes any.
pub(super) async fn measure(
    model: &ReadyModel,
    settings: EngineSettings,
    pictures: &[PreparedPicture],
    max_tokens: usize,
) -> anyhow::Result<Items> {
    let fill = Arc::new(Fill::default());
    let engine = model.start(settings, fill.clone())?;
    let handle = engine.handle();
    let prompt: Arc<str> = handle.info().prompts.caption.as_str().into();
    let embed = handle.info().embedding_space.is_some();
    let meter = Meter::new(model.loaded().model.device());
    meter.restart();
    let since = Instant::now();
    // Greedy, as peers are measured. Drawn weights say one token for ever, which is refused as noise, but only at its end.
    let sampling = SamplingOptions { max_new_tokens: max_tokens, ..SamplingOptions::default() };
    let answers = join_all(pictures.iter().map(|picture| {
        handle.caption(CaptionRequest {
            picture: picture.clone(),
            asks: Ask::alone(prompt.clone(), sampling.clone()),
            adapter: None,
            embed,
            priority: Priority::Bulk,
        })
    }))
    .await;
    let seconds = since.elapsed().as_secs_f64();
    let most_in_use = meter.most();
    for answer in answers {
        match answer {
            Ok(_) | Err(EngineError::Degenerate(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (slots, memory) = (handle.info().slots, handle.info().memory.clone());
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    let so_far = fill.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = &so_far.steps[..so_far.while_waiting];
    Ok(Items {
        slots,
        pictures: pictures.len(),
        seconds,
        pictures_per_second: pictures.len() as f64 / seconds,
        tokens_per_second: so_far.tokens as f64 / seconds,
        decode_fill: (!waiting.is_empty()).then(|| waiting.iter().sum::<f64>() / waiting.len() as f64),
        most_in_use,
        memory,
    })
}
