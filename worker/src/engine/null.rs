//! The null engine: answers without looking, for load tests only.
//!
//! It stands where the device thread stands and takes the same requests, persons' first, each for as long as it is told. So
//! everything around the engine works as it does otherwise: queue, store, decoding, rows, parts, outcomes. What it says is no
//! caption and says so in every row; its bundle and its space of embeddings are called `null`, which no real one can be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use captionfleet_model::{ModelConfig, PromptTemplates, RetrievalConfig, StopReason, WeightMemory};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

use super::memory::{Limit, MemoryBudget, StepMemory};
use super::observer::{EngineObserver, Stage};
use super::pulse::Pulse;
use super::request::{OneAnswer, Priority, Work};
use super::{DeviceTime, Engine, EngineError, EngineInfo, Said};

/// The name of its bundle, its space and its device.
pub const NULL: &str = "null";
/// What it says about every picture.
pub const NOT_A_CAPTION: &str = "not a caption: the null engine, for load tests only";

/// Side of the pictures that it is given, in pixels: that of the published model, so that resizing costs what it costs there.
const PICTURE_SIDE: usize = 224;
/// What the usual GPU gets.
const BATCH: usize = 8;
/// Tokens of a slot that it would have.
const SLOT_TOKENS: usize = 320;

/// What is settled about a null engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NullOptions {
    /// How long the device takes for one item.
    pub time_per_item: Duration,
    /// Items that are handed to it at a time, as to an engine of so many batch slots.
    pub slots: usize,
}

impl Engine {
    /// Starts the null engine. **What it says is no caption.**
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_null(options: NullOptions, observer: Arc<dyn EngineObserver>) -> Result<Self, EngineError> {
        let (inbox, received) = channel();
        let (pulse, info) = (Arc::new(Pulse::default()), info(options));
        let shape = info.embedding_shape.unwrap_or_default();
        let device = NullDevice::new(options.time_per_item, shape, received, observer, Arc::clone(&pulse));
        Self::spawn(inbox, pulse, info, None, move || {
            device.run();
            Ok(())
        })
    }
}

fn info(options: NullOptions) -> EngineInfo {
    let retrieval = RetrievalConfig::blip2_itm_vit_g();
    EngineInfo {
        bundle: NULL.to_owned(),
        embedding_space: Some(NULL.to_owned()),
        embedding_shape: Some((retrieval.qformer.num_query_tokens, retrieval.embed_dim)),
        prompts: PromptTemplates {
            caption: "<ImageHere>".to_owned(),
            ask: "<ImageHere> {question}".to_owned(),
        },
        max_len: SLOT_TOKENS,
        slots: options.slots,
        device: NULL,
        memory: MemoryBudget {
            limit: None,
            limit_from: Limit::Unknown,
            held: 0,
            weights: WeightMemory::default(),
            vision: StepMemory { rows: BATCH, bytes: 0 },
            prefill: StepMemory { rows: BATCH, bytes: 0 },
            slots: options.slots,
            reserved_slots: 0,
            slot: 0,
            max_len: SLOT_TOKENS,
            query: 0,
            pictures: None,
            reserve: 0,
        },
        config: ModelConfig { retrieval: Some(retrieval), ..ModelConfig::tinygpt_v(PICTURE_SIDE) },
    }
}

/// What stands in for the device thread.
struct NullDevice {
    time_per_item: Duration,
    /// Vectors of a picture's embedding, and their dimension.
    shape: (usize, usize),
    random: StdRng,
    bulk: VecDeque<Work>,
    interactive: VecDeque<Work>,
    inbox: Receiver<Work>,
    observer: Arc<dyn EngineObserver>,
    pulse: Arc<Pulse>,
}

impl NullDevice {
    fn new(
        time_per_item: Duration,
        shape: (usize, usize),
        inbox: Receiver<Work>,
        observer: Arc<dyn EngineObserver>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let random = StdRng::seed_from_u64(0);
        let (bulk, interactive) = (VecDeque::new(), VecDeque::new());
        Self { time_per_item, shape, random, bulk, interactive, inbox, observer, pulse }
    }

    /// Answers until nobody can ask any more.
    fn run(mut self) {
        let mut done_at = Instant::now();
        while self.take_in(&mut done_at) {
            let Some(work) = self.next() else { continue };
            if work.is_cancelled() {
                continue;
            }
            // Counted from when the one before was done, not from when this thread woke up: a device does not wait for that.
            done_at += self.time_per_item;
            if let Some(waited) = work.waited() {
                self.observer.queued(waited);
            }
            self.pulse.begin();
            std::thread::sleep(done_at.saturating_duration_since(Instant::now()));
            self.pulse.end();
            self.observer.stage(Stage::Null, self.time_per_item.as_secs_f64(), 1, 1);
            self.answer(work);
        }
    }

    /// Takes in what has arrived; waits when there is nothing to do, and sets `done_at` to the end of the wait. False when
    /// nobody can ask any more.
    fn take_in(&mut self, done_at: &mut Instant) -> bool {
        if self.interactive.is_empty() && self.bulk.is_empty() {
            let since = Instant::now();
            let Ok(work) = self.inbox.recv() else { return false };
            *done_at = Instant::now();
            self.observer.idle((*done_at - since).as_secs_f64());
            self.admit(work);
        }
        loop {
            match self.inbox.try_recv() {
                Ok(work) => self.admit(work),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Persons' requests first.
    fn next(&mut self) -> Option<Work> {
        self.interactive.pop_front().or_else(|| self.bulk.pop_front())
    }

    fn admit(&mut self, work: Work) {
        match work.priority() {
            Priority::Interactive => self.interactive.push_back(work),
            Priority::Bulk => self.bulk.push_back(work),
        }
    }

    /// Answers; nobody listening is fine: the request was cancelled.
    fn answer(&mut self, work: Work) {
        let (vectors, dim) = self.shape;
        match work {
            Work::Caption { request, reply, others, .. } => {
                let embedding = request.embed.then(|| self.noise(vectors * dim).map(f16::from_f32).collect());
                let device = DeviceTime::default();
                let _ = reply.send(Ok(OneAnswer { said: said(), embedding, device }));
                for other in others {
                    let _ = other.send(Ok(OneAnswer { said: said(), embedding: None, device }));
                }
            }
            Work::Picture { reply, .. } => {
                let flat: Vec<f32> = self.noise(vectors * dim).collect();
                let _ = reply.send(Ok(flat.chunks(dim).map(<[f32]>::to_vec).collect()));
            }
            Work::Match { reply, .. } => {
                let _ = reply.send(Err(EngineError::NullEngine));
            }
            Work::Text { reply, .. } => {
                let _ = reply.send(Ok(self.noise(dim).collect()));
            }
        }
    }

    /// Values that compress as badly as those of an embedding: parts have the size that they have otherwise.
    fn noise(&mut self, count: usize) -> impl Iterator<Item = f32> {
        let mut bits = vec![0_u8; 2 * count];
        self.random.fill_bytes(&mut bits);
        // Up to 0.125: 256 of them make a vector of about length 1.
        (0..count).map(move |at| f32::from(i16::from_le_bytes([bits[2 * at], bits[2 * at + 1]])) / 262_144.0)
    }
}

fn said() -> Said {
    Said {
        text: NOT_A_CAPTION.to_owned(),
        tokens: 0,
        logprob: 0.0,
        share: None,
        stop_reason: StopReason::EndOfText,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_model::SamplingOptions;
    use captionfleet_model::constraint::ValueForm;
    use captionfleet_model::preprocess::{PreparedPicture, SquareImage};

    use super::super::request::Reply;
    use super::*;
    use crate::engine::{Ask, CaptionRequest, EngineHandle, Manner, Unobserved};

    const PER_ITEM: Duration = Duration::from_millis(20);

    fn start() -> Engine {
        Engine::start_null(NullOptions { time_per_item: PER_ITEM, slots: 4 }, Arc::new(Unobserved)).unwrap()
    }

    fn request(asks: Arc<[Ask]>, priority: Priority) -> CaptionRequest {
        let caption = SquareImage { size: 1, rgb: vec![0; 3] };
        let picture = PreparedPicture { width: 1, height: 1, caption, retrieval: None };
        CaptionRequest { picture, asks, adapter: None, embed: true, priority }
    }

    fn free() -> Arc<[Ask]> {
        Ask::alone("what?".into(), SamplingOptions::default())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn items_take_the_time_that_was_asked_for() {
        async fn ask(engine: EngineHandle) {
            let answer = engine.caption(request(free(), Priority::Bulk)).await.unwrap();
            assert_eq!(answer.caption, NOT_A_CAPTION);
            assert_eq!(answer.embedding.unwrap().len(), 32 * 256);
        }
        let engine = start();
        let since = Instant::now();
        let asked: Vec<_> = (0..10).map(|_| tokio::spawn(ask(engine.handle()))).collect();
        for done in asked {
            done.await.unwrap();
        }
        assert!(since.elapsed() >= 10 * PER_ITEM, "{:?}", since.elapsed());
    }

    #[test]
    fn persons_go_first() {
        let (inbox, received) = channel();
        let mut device =
            NullDevice::new(PER_ITEM, (1, 1), received, Arc::new(Unobserved), Arc::new(Pulse::default()));
        for priority in [Priority::Bulk, Priority::Bulk, Priority::Interactive] {
            let (reply, _) = Reply::channel();
            let request = Arc::new(request(free(), priority));
            inbox.send(Work::Caption { request, at: 0, reply, others: Vec::new() }).unwrap();
        }
        assert!(device.take_in(&mut Instant::now()));
        let order: Vec<_> = std::iter::from_fn(|| device.next()).map(|work| work.priority()).collect();
        assert_eq!(order, [Priority::Interactive, Priority::Bulk, Priority::Bulk]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_does_not_pretend_to_know_words() {
        let engine = start().handle();
        let exactly = Ask { manner: Manner::Exactly("yes".into()), ..free()[0].clone() };
        let answer = engine.caption(request(Arc::new([exactly]), Priority::Bulk)).await;
        assert!(matches!(answer, Err(EngineError::NullEngine)), "{answer:?}");
        assert!(matches!(engine.constraint(ValueForm::boolean()), Err(EngineError::NullEngine)));
        let refused = engine.open_adapter(std::path::Path::new("adapter")).unwrap_err().to_string();
        assert!(refused.contains("null engine"), "{refused}");
    }
}
