//! Whose time the device spends: shares of steps, and answers between layers.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow};
use futures::future::join_all;

use super::tests::{loaded, mixed_requests, request, start};
use super::{EngineError, EngineHandle, EngineObserver, Network};
use crate::engine::step::{Logits, Sight, Wanted};
use crate::engine::{CaptionResult, Stage, Unobserved};

/// The seconds of all steps.
#[derive(Default)]
struct Busy(Mutex<f64>);

impl EngineObserver for Busy {
    fn stage(&self, _: Stage, seconds: f64, _: usize, _: usize) {
        *self.0.lock().unwrap() += seconds;
    }
    fn tokens(&self, _: usize) {}
    fn idle(&self, _: f64) {}
    fn out_of_memory(&self, _: Stage, _: usize) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_devices_time_is_shared_out_among_the_answers() {
    let busy = Arc::new(Busy::default());
    let engine = start(Box::new(loaded()), 8, busy.clone());
    let handle = engine.handle();
    let answers = join_all(mixed_requests().into_iter().map(|request| handle.caption(request))).await;
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await.unwrap().unwrap();
    let mut shared = 0.0;
    for answer in answers {
        let answer = answer.unwrap();
        let legs: Vec<_> = answer.device.legs().collect();
        let stages: Vec<Stage> = legs.iter().map(|(stage, _)| *stage).collect();
        assert_eq!(stages, [Stage::Vision, Stage::Prefill, Stage::Decode]);
        let steps: Vec<u32> = legs.iter().map(|(_, leg)| leg.steps).collect();
        // The prompt's last position gives the first token.
        assert_eq!(steps, [1, 1, answer.tokens - 1]);
        assert!(legs.windows(2).all(|pair| pair[0].1.ended <= pair[1].1.began), "{legs:?}");
        assert!(legs.iter().all(|(_, leg)| leg.began <= leg.ended), "{legs:?}");
        shared += answer.device.seconds();
    }
    let busy = *busy.0.lock().unwrap();
    // What is missing is what lies between a batch's steps.
    assert!(shared <= busy && shared > 0.6 * busy, "{shared} of {busy} s");
}

/// How often a request had waited.
#[derive(Default)]
struct Waits(AtomicU32);

impl EngineObserver for Waits {
    fn stage(&self, _: Stage, _: f64, _: usize, _: usize) {}
    fn tokens(&self, _: usize) {}
    fn idle(&self, _: f64) {}
    fn out_of_memory(&self, _: Stage, _: usize) {}
    fn queued(&self, seconds: f64) {
        assert!(seconds >= 0.0);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_waits_once_for_its_first_step() {
    let waits = Arc::new(Waits::default());
    let engine = start(Box::new(loaded()), 2, waits.clone());
    let handle = engine.handle();
    let told = || waits.0.load(Ordering::Relaxed);
    let requests = mixed_requests();
    let count = requests.len() as u32;
    for answer in join_all(requests.into_iter().map(|request| handle.caption(request))).await {
        answer.unwrap();
    }
    assert_eq!(told(), count);
    // Several things about a picture are one request, and one about a picture that was seen a moment ago is another.
    let mut several = request(7, &loaded().prompts.caption, 3);
    several.asks = several.asks.iter().cycle().take(3).cloned().collect();
    handle.caption(several).await.unwrap();
    handle.caption(request(7, &loaded().prompts.caption, 3)).await.unwrap();
    handle.embed_text("a red circle".to_owned()).await.unwrap();
    assert_eq!(told(), count + 3);
}

/// How long a query takes at least.
const QUERY: Duration = Duration::from_millis(20);
/// Queries that every long step waits for between its layers.
const QUERIES: u32 = 3;

/// A network whose long steps do not end before some queries were answered in them.
#[derive(Default)]
struct Attentive {
    answered: AtomicU32,
}

impl Attentive {
    fn answer(&self, pause: Pause<'_>) {
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < before + QUERIES {
            pause();
            std::thread::yield_now();
        }
    }
}

impl Network for Attentive {
    fn vision(&self, rows: &[Wanted<'_>], pause: Pause<'_>) -> Result<Vec<Sight>, EngineError> {
        self.answer(pause);
        loaded().vision(rows, pause)
    }

    fn prefill(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause<'_>,
    ) -> Result<Logits, EngineError> {
        self.answer(pause);
        loaded().prefill(rows, cache, pause)
    }

    fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Logits, EngineError> {
        loaded().decode(rows, cache)
    }

    fn text(&self, query: &str) -> Result<Vec<f32>, EngineError> {
        std::thread::sleep(QUERY);
        self.answered.fetch_add(1, Ordering::Relaxed);
        loaded().text(query)
    }

    fn lives(&self) -> Result<(), EngineError> {
        loaded().lives()
    }
}

/// The answer to a caption while somebody searches without a break.
async fn captioned_beside_queries(engine: &EngineHandle) -> CaptionResult {
    let queries = async {
        loop {
            engine.embed_text("a red circle".to_owned()).await.unwrap();
        }
    };
    tokio::select! {
        answer = engine.caption(request(1, &loaded().prompts.caption, 3)) => answer.unwrap(),
        () = queries => unreachable!("queries never end"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_between_layers_are_not_in_a_captions_time() {
    let engine = start(Box::new(Attentive::default()), 4, Arc::new(Unobserved));
    let answer = captioned_beside_queries(&engine.handle()).await;
    for (stage, leg) in answer.device.legs() {
        let passed = (leg.ended - leg.began).as_secs_f64();
        if stage != Stage::Decode {
            // Exact but for rounding: the step's time is what is left of the time that passed.
            let queries = f64::from(QUERIES) * QUERY.as_secs_f64();
            assert!(leg.seconds <= passed - queries + 1e-6, "{stage:?}: {} of {passed} s", leg.seconds);
        }
        assert!(leg.seconds > 0.0 && leg.seconds <= passed, "{stage:?}: {} of {passed} s", leg.seconds);
    }
}
