//! The whole engine on the demo model: company, cancellations, a device that runs out of memory.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use captionfleet_model::preprocess::{Picture, prepare};
use captionfleet_model::{DecodeRow, Pause, PrefillRow, SamplingOptions};
use captionfleet_world::texts::retrieval_text;
use captionfleet_world::{Scene, Split, render};
use futures::future::join_all;

use super::*;
use crate::demo_model;
use crate::engine::memory::{Limit, StepMemory};
use crate::engine::step::{Logits, Sight, Wanted};
use crate::engine::{Priority, Stage, Unobserved};

pub(super) fn loaded() -> Arc<LoadedModel> {
    static LOADED: OnceLock<Arc<LoadedModel>> = OnceLock::new();
    let load = || Arc::new(demo_model::bundle().unwrap().load(&Device::Cpu).unwrap());
    Arc::clone(LOADED.get_or_init(load))
}

fn options(slots: usize) -> EngineOptions {
    EngineOptions {
        slots,
        vision_batch: 8,
        prefill_batch: 8,
        max_len: 96,
        pass: usize::MAX,
        feature_cache: 0,
        batch_invariant: false,
    }
}

fn memory(slots: usize) -> MemoryBudget {
    MemoryBudget {
        limit: None,
        limit_from: Limit::Unknown,
        held: 0,
        weights: loaded().memory.clone(),
        vision: StepMemory { rows: 8, bytes: 0 },
        prefill: StepMemory { rows: 8, bytes: 0 },
        slots,
        reserved_slots: 1,
        slot: 0,
        max_len: 96,
        query: 0,
        pictures: None,
        reserve: 0,
    }
}

pub(super) fn start(network: Box<dyn Network>, slots: usize, observer: Arc<dyn EngineObserver>) -> Engine {
    Engine::start_on(network, loaded(), options(slots), memory(slots), observer).unwrap()
}

pub(super) fn request(seed: u64, prompt: &str, max_new_tokens: usize) -> CaptionRequest {
    let drawn = render(&Scene::sample(seed, Split::HeldOut), 200, 150);
    let picture = Picture { width: 200, height: 150, rgb: drawn.into_raw() };
    CaptionRequest {
        picture: prepare(&picture, loaded().model.config()),
        asks: Ask::alone(prompt.into(), SamplingOptions { max_new_tokens, ..SamplingOptions::default() }),
        adapter: None,
        embed: true,
        priority: Priority::Bulk,
    }
}

/// Pictures with prompts of different lengths and answers of different lengths.
pub(super) fn mixed_requests() -> Vec<CaptionRequest> {
    let prompts = &loaded().prompts;
    (0..24)
        .map(|seed| match seed % 3 {
            0 => request(seed, &prompts.caption, 40),
            1 => request(seed, &prompts.ask.replace("{question}", "How many objects are there?"), 12),
            _ => request(seed, &prompts.caption, 3),
        })
        .collect()
}

async fn all(
    engine: &EngineHandle,
    requests: Vec<CaptionRequest>,
) -> Vec<(String, u32, Option<Vec<half::f16>>)> {
    let answers = join_all(requests.into_iter().map(|request| engine.caption(request))).await;
    answers.into_iter().map(|answer| answer.unwrap()).map(|a| (a.caption, a.tokens, a.embedding)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_in_any_company() {
    let one = start(Box::new(loaded()), 1, Arc::new(Unobserved));
    let mut alone = Vec::new();
    for request in mixed_requests() {
        alone.extend(all(&one.handle(), vec![request]).await);
    }
    for slots in [3, 16] {
        let engine = start(Box::new(loaded()), slots, Arc::new(Unobserved));
        let mut requests = mixed_requests();
        assert_eq!(all(&engine.handle(), requests.clone()).await, alone, "{slots} slots");
        requests.reverse();
        let mut backwards = all(&engine.handle(), requests).await;
        backwards.reverse();
        assert_eq!(backwards, alone, "{slots} slots, in reverse");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_filled_up_change_no_answer() {
    let usual = start(Box::new(loaded()), 5, Arc::new(Unobserved));
    let options = EngineOptions { batch_invariant: true, ..options(5) };
    let filled = Engine::start(loaded(), options, memory(5), Arc::new(Unobserved)).unwrap();
    let requests = || {
        let mut requests = mixed_requests();
        // Some are captioned alone.
        requests.iter_mut().step_by(2).for_each(|request| request.embed = false);
        requests
    };
    assert_eq!(all(&filled.handle(), requests()).await, all(&usual.handle(), requests()).await);
    let picture = || requests().swap_remove(0).picture;
    let embedded = filled.handle().embed_picture(picture()).await.unwrap();
    assert_eq!(embedded, usual.handle().embed_picture(picture()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_interactive_requests_change_no_other_answer() {
    let engine = start(Box::new(loaded()), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let undisturbed = all(&handle, mixed_requests()).await;
    let disturbing = {
        let handle = handle.clone();
        tokio::spawn(async move {
            for seed in 100..130 {
                let mut request = request(seed, &loaded().prompts.caption, 40);
                request.priority = Priority::Interactive;
                let asked = handle.caption(request);
                // Some are given up after a moment, some are answered.
                let patience = std::time::Duration::from_millis(seed % 4 * 5);
                let _ = tokio::time::timeout(patience, asked).await;
            }
        })
    };
    assert_eq!(all(&handle, mixed_requests()).await, undisturbed);
    disturbing.await.unwrap();
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_between_layers_change_no_answer_and_are_not_changed() {
    let engine = start(Box::new(loaded()), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let undisturbed = all(&handle, mixed_requests()).await;
    let alone = handle.embed_text("a red circle".to_owned()).await.unwrap();
    let texts = join_all((0..400).map(|_| handle.embed_text("a red circle".to_owned())));
    let (answers, texts) = tokio::join!(all(&handle, mixed_requests()), texts);
    assert_eq!(answers, undisturbed);
    assert!(texts.into_iter().all(|text| text.unwrap() == alone));
}

#[tokio::test(flavor = "multi_thread")]
async fn odds_tell_right_from_wrong_and_are_the_same_in_any_company() {
    let engine = start(Box::new(loaded()), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let pictures: Vec<_> = (0..12).map(|seed| request(seed, "", 1).picture).collect();
    let texts: Vec<_> = (0..12)
        .map(|seed| handle.match_text(&retrieval_text(&Scene::sample(seed, Split::HeldOut))).unwrap())
        .collect();
    let pairs: Vec<(usize, usize)> = (0..12).flat_map(|at| [(at, at), (at, (at + 5) % 12)]).collect();
    let mut alone = Vec::new();
    for (picture, text) in &pairs {
        alone.push(handle.match_picture(pictures[*picture].clone(), &texts[*text]).await.unwrap());
    }
    let right =
        pairs.iter().zip(&alone).filter(|((picture, text), odds)| (picture == text) == (**odds > 0.0));
    assert!(right.count() >= 22, "{alone:?}");
    let together =
        join_all(pairs.iter().map(|(at, text)| handle.match_picture(pictures[*at].clone(), &texts[*text])));
    let (together, _) = tokio::join!(together, all(&handle, mixed_requests()));
    let together: Vec<f32> = together.into_iter().map(|odds| odds.unwrap()).collect();
    assert_eq!(together, alone);
}

/// A device on which `most` rows of a step fit. What runs out is found either before or after the step was done.
#[derive(Default)]
struct Tight {
    most: Arc<AtomicUsize>,
    late: bool,
    /// The most rows of a step that went well, by kind.
    widest: Arc<Mutex<HashMap<&'static str, usize>>>,
}

impl Tight {
    /// The step with a shortage in front of it, or behind it.
    fn short<T>(
        &self,
        stage: Stage,
        rows: usize,
        step: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if !self.late {
            self.check(rows)?;
        }
        let done = step()?;
        self.check(rows)?;
        let mut widest = self.widest.lock().unwrap();
        let widest = widest.entry(stage.as_str()).or_default();
        *widest = rows.max(*widest);
        Ok(done)
    }

    fn check(&self, rows: usize) -> Result<(), EngineError> {
        let most = self.most.load(Ordering::Relaxed);
        if rows > most {
            return Err(EngineError::OutOfMemory(format!("{rows} rows where {most} fit")));
        }
        Ok(())
    }
}

impl Network for Tight {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        self.short(Stage::Vision, rows.len(), || loaded().vision(rows, pause))
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        self.short(Stage::Prefill, rows.len(), || loaded().prefill(rows, cache, pause))
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        self.short(Stage::Decode, rows.len(), || loaded().decode(rows, cache))
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        loaded().text(query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        loaded().lives()
    }
}

/// Rows of every step for which memory ran out.
#[derive(Default)]
struct Shortages(Mutex<Vec<(Stage, usize)>>);

impl EngineObserver for Shortages {
    fn stage(&self, _: Stage, _: f64, _: usize, _: usize) {}
    fn tokens(&self, _: usize) {}
    fn idle(&self, _: f64) {}
    fn out_of_memory(&self, stage: Stage, rows: usize) {
        self.0.lock().unwrap().push((stage, rows));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_is_halved_and_grows_back() {
    let roomy = start(Box::new(loaded()), 8, Arc::new(Unobserved));
    let expected = all(&roomy.handle(), mixed_requests()).await;
    let (most, widest) = (Arc::new(AtomicUsize::new(3)), Arc::default());
    let shortages = Arc::new(Shortages::default());
    let tight = Tight { most: Arc::clone(&most), late: false, widest: Arc::clone(&widest) };
    let engine = start(Box::new(tight), 8, shortages.clone());
    assert_eq!(all(&engine.handle(), mixed_requests()).await, expected);
    let seen = std::mem::take(&mut *shortages.0.lock().unwrap());
    let stages = [Stage::Vision, Stage::Prefill, Stage::Decode];
    for stage in stages {
        let rows: Vec<usize> = seen.iter().filter(|(at, _)| *at == stage).map(|(_, rows)| *rows).collect();
        // Halved until it fits, and not tried at full size again with every step.
        assert!(!rows.is_empty() && rows.len() < 12, "{stage:?}: {rows:?}");
    }
    most.store(usize::MAX, Ordering::Relaxed);
    let widest_now = || stages.map(|stage| widest.lock().unwrap()[stage.as_str()]);
    assert!(widest_now().iter().all(|rows| *rows <= 3), "{:?}", widest_now());
    for round in 0.. {
        assert_eq!(all(&engine.handle(), mixed_requests()).await, expected);
        if widest_now().iter().all(|rows| *rows >= 8) {
            break;
        }
        assert!(round < 40, "batches stay small: {:?}", widest_now());
    }
    assert!(shortages.0.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_after_it_was_counted_is_taken_back() {
    let roomy = start(Box::new(loaded()), 8, Arc::new(Unobserved));
    let expected = all(&roomy.handle(), mixed_requests()).await;
    let late = Tight { most: Arc::new(AtomicUsize::new(1)), late: true, ..Tight::default() };
    let engine = start(Box::new(late), 8, Arc::new(Unobserved));
    assert_eq!(all(&engine.handle(), mixed_requests()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_row_does_not_fit_the_engine_ends_and_says_why() {
    let engine = start(Box::new(Tight::default()), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let answer = handle.caption(request(1, &loaded().prompts.caption, 5)).await;
    assert!(matches!(answer, Err(EngineError::Stopped)), "{answer:?}");
    engine.gone().cancelled().await;
    drop(handle);
    let ended = tokio::task::spawn_blocking(move || engine.join()).await.unwrap();
    assert!(matches!(ended, Err(EngineError::OutOfMemory(_))), "{ended:?}");
}
