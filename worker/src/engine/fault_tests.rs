//! Networks that panic, speak noise or never come back.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow};

use super::tests::{loaded, request, start};
use super::{Engine, EngineHandle, Network};
use crate::engine::step::{Sight, Wanted};
use crate::engine::{CaptionResult, EngineError, Stage, Unobserved};

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Panic,
    NotANumber,
    /// The same token always wins.
    OneToken,
    Hang,
}

/// The real network, except in one stage: in vision only with one picture, later wherever rows are.
struct Faulty {
    stage: Stage,
    fault: Fault,
    picture: Option<PreparedPicture>,
}

impl Faulty {
    fn strike(&self, stage: Stage) {
        match self.fault {
            _ if self.stage != stage => {}
            Fault::Panic => panic!("injected into the {} step", stage.as_str()),
            Fault::Hang => loop {
                std::thread::park();
            },
            Fault::NotANumber | Fault::OneToken => {}
        }
    }

    fn spoil(&self, stage: Stage, mut rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        if self.stage == stage && self.fault == Fault::NotANumber {
            for row in &mut rows {
                row.fill(f32::NAN);
            }
        }
        if self.stage == stage && self.fault == Fault::OneToken {
            for row in &mut rows {
                row[300] = 1e4;
            }
        }
        rows
    }
}

impl Network for Faulty {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        let meant = |row: &Wanted<'_>| {
            self.picture.as_ref().is_none_or(|picture| picture.caption.rgb == row.picture.caption.rgb)
        };
        if rows.iter().any(meant) {
            self.strike(Stage::Vision);
        }
        loaded().vision(rows, pause)
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.strike(Stage::Prefill);
        Ok(self.spoil(Stage::Prefill, loaded().prefill(rows, cache, pause)?))
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError> {
        self.strike(Stage::Decode);
        Ok(self.spoil(Stage::Decode, loaded().decode(rows, cache)?))
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        self.strike(Stage::Text);
        loaded().text(query)
    }
}

/// An engine whose device never comes back from one picture.
pub(crate) fn engine_that_hangs_on(picture: PreparedPicture) -> Engine {
    let network = Faulty { stage: Stage::Vision, fault: Fault::Hang, picture: Some(picture) };
    start(Box::new(network), 4, Arc::new(Unobserved))
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
async fn a_device_that_hangs_is_given_up() {
    let picture = request(1, "", 1).picture;
    let engine = engine_that_hangs_on(picture);
    let handle = engine.handle();
    let limit = Duration::from_millis(300);
    assert!(ask(&handle, 2).await.is_ok());
    handle.check_pulse(limit).await.unwrap();
    let asked = tokio::time::timeout(limit / 2, ask(&handle, 1)).await;
    assert!(asked.is_err() && !handle.is_hung());
    assert!(matches!(handle.check_pulse(limit).await, Err(EngineError::Hung { .. })));
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
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        loaded().prefill(rows, cache, pause)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Vec<Vec<f32>>, EngineError> {
        loaded().decode(rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        let embedded = loaded().text(query);
        self.answered.store(true, std::sync::atomic::Ordering::Release);
        embedded
    }
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
