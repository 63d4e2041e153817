//! Networks that panic, fail, speak noise, are slow or never come back, and devices that break.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow};
use half::f16;

use super::tests::{loaded, request, start};
use super::{Engine, EngineHandle, Network};
use crate::engine::step::{Logits, Sight, Wanted};
use crate::engine::{CaptionResult, EngineError, Stage, Unobserved};

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Panic,
    NotANumber,
    /// The same token always wins.
    OneToken,
    Hang,
    Error,
    /// Nothing works any more, in any stage.
    Broken,
    /// It takes its time.
    Slow(Duration),
    /// Every row's numbers depend a little on how many rows there are.
    Crowd,
}

/// The real network, except in one stage: in vision only with one picture, later wherever rows are.
struct Faulty {
    stage: Stage,
    fault: Fault,
    picture: Option<PreparedPicture>,
}

impl Faulty {
    fn strike(&self, stage: Stage) -> Result<(), EngineError> {
        let failed = || Err(EngineError::Model("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()));
        match self.fault {
            Fault::Broken => failed(),
            _ if self.stage != stage => Ok(()),
            Fault::Panic => panic!("injected into the {} step", stage.as_str()),
            Fault::Hang => loop {
                std::thread::park();
            },
            Fault::Error => failed(),
            Fault::Slow(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            Fault::NotANumber | Fault::OneToken | Fault::Crowd => Ok(()),
        }
    }

    fn is_noise_in(&self, stage: Stage) -> bool {
        self.stage == stage && self.fault == Fault::NotANumber
    }

    fn spoil(&self, stage: Stage, logits: &Logits) -> Result<Logits, EngineError> {
        let mut rows = logits.rows()?;
        if self.is_noise_in(stage) {
            for row in &mut rows {
                row.fill(f32::NAN);
            }
        }
        if self.stage == stage && self.fault == Fault::OneToken {
            for row in &mut rows {
                row[300] = 1e4;
            }
        }
        if self.stage == stage && self.fault == Fault::Crowd {
            let scale = 1.0 + 1e-3 * rows.len() as f32;
            for score in rows.iter_mut().flatten() {
                *score *= scale;
            }
        }
        Ok(Logits::of(rows))
    }
}

impl Network for Faulty {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        let meant = |row: &Wanted<'_>| {
            self.picture.as_ref().is_none_or(|picture| picture.caption.rgb == row.picture.caption.rgb)
        };
        if rows.iter().any(meant) {
            self.strike(Stage::Vision)?;
        }
        let mut sights = loaded().vision(rows, pause)?;
        if self.is_noise_in(Stage::Vision) {
            for (_, sight) in rows.iter().zip(&mut sights).filter(|(row, _)| meant(row)) {
                // The heads go wrong apart: what is said of the picture is sound.
                sight.embedding.iter_mut().flatten().for_each(|value| *value = f16::NAN);
            }
        }
        Ok(sights)
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        self.strike(Stage::Prefill)?;
        self.spoil(Stage::Prefill, &loaded().prefill(rows, cache, pause)?)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        self.strike(Stage::Decode)?;
        self.spoil(Stage::Decode, &loaded().decode(rows, cache)?)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        self.strike(Stage::Text)?;
        let mut vector = loaded().text(query)?;
        if self.is_noise_in(Stage::Text) {
            vector.fill(f32::NAN);
        }
        Ok(vector)
    }

    fn lives(&self) -> Result<(), EngineError> {
        match self.fault {
            Fault::Broken => self.strike(self.stage),
            _ => loaded().lives(),
        }
    }
}

/// An engine whose device never comes back from one picture.
pub(crate) fn engine_that_hangs_on(picture: PreparedPicture) -> Engine {
    let network = Faulty { stage: Stage::Vision, fault: Fault::Hang, picture: Some(picture) };
    start(Box::new(network), 4, Arc::new(Unobserved))
}

/// An engine whose device never comes back from a step of this kind.
pub(crate) fn engine_that_hangs_in(stage: Stage) -> Engine {
    engine(stage, Fault::Hang)
}

/// Whether the device is at work.
pub(crate) fn is_at_a_step(engine: &EngineHandle) -> bool {
    engine.pulse.running().is_some()
}

/// An engine that fails on one picture.
pub(crate) fn engine_that_fails_on(picture: PreparedPicture) -> Engine {
    let network = Faulty { stage: Stage::Vision, fault: Fault::Error, picture: Some(picture) };
    start(Box::new(network), 4, Arc::new(Unobserved))
}

/// An engine for which one picture's embedding is not a number.
pub(crate) fn engine_without_numbers_for(picture: PreparedPicture) -> Engine {
    let network = Faulty { stage: Stage::Vision, fault: Fault::NotANumber, picture: Some(picture) };
    start(Box::new(network), 4, Arc::new(Unobserved))
}

/// An engine whose device computes nothing any more.
pub(crate) fn broken_engine() -> Engine {
    engine(Stage::Vision, Fault::Broken)
}

/// An engine that takes `time` longer for every token.
pub(crate) fn slow_engine(time: Duration) -> Engine {
    engine(Stage::Decode, Fault::Slow(time))
}

/// An engine whose rows depend a little on their neighbours.
pub(crate) fn crowded_engine() -> Engine {
    engine(Stage::Decode, Fault::Crowd)
}

/// An engine without a fault.
pub(crate) fn sound_engine() -> Engine {
    start(Box::new(loaded()), 4, Arc::new(Unobserved))
}

fn engine(stage: Stage, fault: Fault) -> Engine {
    start(Box::new(Faulty { stage, fault, picture: None }), 4, Arc::new(Unobserved))
}

async fn ask(engine: &EngineHandle, seed: u64) -> Result<CaptionResult, EngineError> {
    engine.caption(request(seed, &loaded().prompts.caption, 40)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_step_is_an_error_and_the_engine_goes_on() {
    for stage in [Stage::Vision, Stage::Prefill, Stage::Decode] {
        let engine = engine(stage, Fault::Panic);
        for seed in 0..3 {
            let answer = ask(&engine.handle(), seed).await;
            assert!(matches!(answer, Err(EngineError::Panicked { .. })), "{stage:?}: {answer:?}");
        }
        assert!(engine.handle().embed_text("a red circle".to_owned()).await.is_ok(), "{stage:?}");
    }
    let engine = engine(Stage::Text, Fault::Panic);
    assert!(engine.handle().embed_text("a red circle".to_owned()).await.is_err());
    assert!(ask(&engine.handle(), 1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_one_picture_fails_no_neighbour() {
    let poison = request(1, "", 1).picture;
    let network = Faulty { stage: Stage::Vision, fault: Fault::Panic, picture: Some(poison) };
    let engine = start(Box::new(network), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let answers = futures::future::join_all((0..6).map(|seed| ask(&handle, seed))).await;
    let failed: Vec<usize> = (0..6).filter(|&seed| answers[seed].is_err()).collect();
    assert_eq!(failed, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_which_nothing_works_is_given_up_whoever_finds_it() {
    for is_text in [false, true] {
        let engine = broken_engine();
        let handle = engine.handle();
        let error = if is_text {
            handle.embed_text("a red circle".to_owned()).await.unwrap_err()
        } else {
            ask(&handle, 1).await.unwrap_err()
        };
        assert!(matches!(error, EngineError::Stopped), "{error}");
        engine.gone().cancelled().await;
        assert!(handle.is_broken());
        drop(handle);
        let ended = tokio::task::spawn_blocking(move || engine.join()).await.unwrap();
        assert!(
            matches!(&ended, Err(EngineError::Broken(text)) if text.contains("ILLEGAL_ADDRESS")),
            "{ended:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_on_which_the_network_fails_breaks_nothing() {
    let engine = engine_that_fails_on(request(1, "", 1).picture);
    let handle = engine.handle();
    let answers = futures::future::join_all((0..6).map(|seed| ask(&handle, seed))).await;
    let failed: Vec<usize> = (0..6).filter(|&seed| answers[seed].is_err()).collect();
    assert_eq!(failed, [1]);
    assert!(!handle.is_broken() && !engine.gone().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_is_degenerate() {
    for (stage, fault) in [
        (Stage::Prefill, Fault::NotANumber),
        (Stage::Decode, Fault::NotANumber),
        (Stage::Decode, Fault::OneToken),
    ] {
        let engine = engine(stage, fault);
        let error = ask(&engine.handle(), 1).await.unwrap_err();
        assert_eq!(error.code(), "degenerate", "{stage:?} {fault:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedding_that_is_not_a_number_is_degenerate() {
    let poison = request(1, "", 1).picture;
    let engine = engine_without_numbers_for(poison.clone());
    let handle = engine.handle();
    let answers = futures::future::join_all((0..6).map(|seed| ask(&handle, seed))).await;
    let failed: Vec<usize> = (0..6).filter(|&seed| answers[seed].is_err()).collect();
    assert_eq!(failed, [1]);
    assert_eq!(answers[1].as_ref().unwrap_err().code(), "degenerate");
    assert_eq!(handle.embed_picture(poison).await.unwrap_err().code(), "degenerate");
    assert!(handle.embed_picture(request(2, "", 1).picture).await.is_ok());

    let engine = self::engine(Stage::Text, Fault::NotANumber);
    let error = engine.handle().embed_text("a red circle".to_owned()).await.unwrap_err();
    assert_eq!(error.code(), "degenerate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_hangs_is_given_up() {
    let picture = request(1, "", 1).picture;
    let engine = engine_that_hangs_on(picture);
    let handle = engine.handle();
    assert!(ask(&handle, 2).await.is_ok());
    let asked = async {
        tokio::select! {
            answer = ask(&handle, 1) => panic!("the device came back: {answer:?}"),
            hung = handle.hung() => hung,
        }
    };
    let (hung, ()) = tokio::join!(asked, handle.watch_pulse(Duration::from_millis(300)));
    assert!(matches!(hung, EngineError::Hung { .. }), "{hung}");
    assert!(handle.is_hung() && engine.gone().is_cancelled());
    assert!(matches!(engine.join(), Err(EngineError::Hung { .. })), "nobody waits for it");
}

/// A vision step that does not end before a text was answered.
#[derive(Default)]
struct Attentive {
    answered: std::sync::atomic::AtomicBool,
}

impl Network for Attentive {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        let since = std::time::Instant::now();
        while !self.answered.load(std::sync::atomic::Ordering::Acquire) {
            assert!(since.elapsed() < Duration::from_secs(20), "nobody was answered");
            std::thread::sleep(Duration::from_millis(1));
            pause();
        }
        loaded().vision(rows, pause)
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        loaded().prefill(rows, cache, pause)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        loaded().decode(rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        let embedded = loaded().text(query);
        self.answered.store(true, std::sync::atomic::Ordering::Release);
        embedded
    }

    fn lives(&self) -> Result<(), EngineError> {
        loaded().lives()
    }
}

/// A device on which a text does not fit beside a vision step.
#[derive(Default)]
struct NoRoomBeside {
    in_vision: std::sync::atomic::AtomicBool,
    refused: Arc<std::sync::atomic::AtomicUsize>,
}

impl Network for NoRoomBeside {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        let refused = || self.refused.load(std::sync::atomic::Ordering::Acquire);
        self.in_vision.store(true, std::sync::atomic::Ordering::Release);
        let (since, before) = (std::time::Instant::now(), refused());
        while refused() == before {
            assert!(since.elapsed() < Duration::from_secs(20), "nobody asked");
            std::thread::sleep(Duration::from_millis(1));
            pause();
        }
        self.in_vision.store(false, std::sync::atomic::Ordering::Release);
        loaded().vision(rows, &mut || {})
    }

    fn prefill(&self, rows: &[PrefillRow], cache: &mut KvCache, _: Pause<'_>) -> Result<Logits, EngineError> {
        loaded().prefill(rows, cache, &mut || {})
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        loaded().decode(rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        if self.in_vision.load(std::sync::atomic::Ordering::Acquire) {
            self.refused.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            return Err(EngineError::OutOfMemory("no room beside the batch".to_owned()));
        }
        loaded().text(query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        loaded().lives()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_fit_beside_a_step_is_answered_after_it() {
    let network = NoRoomBeside::default();
    let refused = Arc::clone(&network.refused);
    let engine = start(Box::new(network), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let captioning = {
        let handle = handle.clone();
        tokio::spawn(async move { ask(&handle, 1).await })
    };
    // One that comes before the step does not hold it up; only one that is refused ends it.
    let mut texts = 0;
    while refused.load(std::sync::atomic::Ordering::Acquire) == 0 {
        let text = handle.embed_text("a red circle".to_owned()).await.unwrap();
        assert_eq!(text, loaded().text("a red circle").unwrap());
        texts += 1;
    }
    assert!(texts > 0 && captioning.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_in_the_middle_of_a_vision_step() {
    let engine = start(Box::new(Attentive::default()), 4, Arc::new(Unobserved));
    let handle = engine.handle();
    let undisturbed = ask(&sound_engine().handle(), 1).await.unwrap();
    let captioning = {
        let handle = handle.clone();
        tokio::spawn(async move { ask(&handle, 1).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    let text = handle.embed_text("a red circle".to_owned()).await.unwrap();
    assert_eq!(text, loaded().text("a red circle").unwrap());
    let captioned = captioning.await.unwrap().unwrap();
    assert_eq!((captioned.caption, captioned.embedding), (undisturbed.caption, undisturbed.embedding));
}
