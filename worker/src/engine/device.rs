//! The device thread: takes requests in, runs the scheduler's next step, answers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::{DecodeRow, KvCache, Pause, PrefillRow, StopReason};

use super::contained::contained;
use super::feature_cache::{FeatureCache, Seen, key_of};
use super::interlude::Interlude;
use super::network::Network;
use super::observer::{EngineObserver, Stage};
use super::pulse::Pulse;
use super::request::{OneAnswer, Priority, RequestId, Work};
use super::scheduler::{Entrance, NextBatch, Scheduler, Seat};
use super::sequence::{Live, Sequence};
use super::step::{Sight, Wanted, vectors};
use super::throttle::Throttle;
use super::{EngineError, EngineOptions};

/// Everything the device thread owns.
pub(super) struct DeviceThread {
    loaded: Arc<LoadedModel>,
    network: Box<dyn Network>,
    throttles: Throttles,
    cache: KvCache,
    scheduler: Scheduler,
    live: HashMap<RequestId, Live>,
    features: FeatureCache,
    observer: Arc<dyn EngineObserver>,
    inbox: Receiver<Work>,
    /// What came during a step and is taken in after it.
    arrived: Vec<Work>,
    /// Seconds of the running batch that went into answers between its layers.
    interludes: f64,
    pulse: Arc<Pulse>,
    next_id: u64,
    /// Why the thread ends although requests may still come.
    fatal: Option<EngineError>,
}

/// How much of each step runs at once.
struct Throttles {
    vision: Throttle,
    prefill: Throttle,
    decode: Throttle,
}

/// When a step began, and how much of its batch's time had gone into answers between layers by then.
#[derive(Clone, Copy)]
struct Began {
    at: Instant,
    interludes: f64,
}

impl DeviceThread {
    pub(super) fn new(
        loaded: Arc<LoadedModel>,
        network: Box<dyn Network>,
        cache: KvCache,
        options: EngineOptions,
        observer: Arc<dyn EngineObserver>,
        inbox: Receiver<Work>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let limits = options.limits();
        Self {
            loaded,
            network,
            throttles: Throttles {
                vision: Throttle::new(limits.vision_batch.min(options.pass)),
                prefill: Throttle::new(limits.prefill_batch.min(options.pass)),
                decode: Throttle::new(limits.all_slots()),
            },
            cache,
            scheduler: Scheduler::new(limits),
            live: HashMap::new(),
            features: FeatureCache::new(options.feature_cache),
            observer,
            inbox,
            arrived: Vec::new(),
            interludes: 0.0,
            pulse,
            next_id: 0,
            fatal: None,
        }
    }

    /// Runs until every handle is gone, or until not even one row fits the device's memory. What is unfinished then is
    /// answered with [`EngineError::Stopped`]: another worker can do it.
    pub(super) fn run(mut self) -> Result<(), EngineError> {
        while self.fatal.is_none() && self.take_in() {
            self.sweep_cancelled();
            if let Some(batch) = self.scheduler.next_batch() {
                self.pulse.begin();
                self.run_batch(batch);
                self.pulse.end();
            }
        }
        for work in self.live.drain().map(|(_, live)| live.work).chain(self.arrived.drain(..)) {
            work.fail(EngineError::Stopped);
        }
        self.fatal.map_or(Ok(()), Err)
    }

    /// Takes in what has arrived; waits when there is nothing to do. False when nobody can ask any more.
    fn take_in(&mut self) -> bool {
        for work in std::mem::take(&mut self.arrived) {
            self.admit(work);
        }
        if self.scheduler.is_empty() {
            let since = Instant::now();
            let Ok(work) = self.inbox.recv() else { return false };
            self.observer.idle(since.elapsed().as_secs_f64());
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

    fn admit(&mut self, work: Work) {
        let priority = work.priority();
        let (entrance, live) = match work {
            Work::Text { .. } => (Entrance::Text, Live::new(work)),
            Work::Picture { .. } | Work::Match { .. } => (Entrance::Picture, Live::new(work)),
            Work::Caption { ref request, at, .. } => {
                let sequence = match Sequence::new(&self.loaded.tokenizer, &request.asks[at]) {
                    Ok(sequence) => sequence,
                    Err(error) => return work.fail(error),
                };
                let key = key_of(&request.picture, request.adapter.as_deref());
                let live = Live { key: Some(key), sequence: Some(sequence), ..Live::new(work) };
                return match self.features.get(&key, live.work.embeds()) {
                    Some(seen) => self.admit_seen(live, seen),
                    None => self.submit(priority, Entrance::Caption, live),
                };
            }
        };
        self.submit(priority, entrance, live);
    }

    fn submit(&mut self, priority: Priority, entrance: Entrance, live: Live) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.live.insert(id, live);
        self.scheduler.submit(id, priority, entrance);
    }

    /// Takes in an ask whose picture has been seen, and those that came with it.
    fn admit_seen(&mut self, mut live: Live, seen: Seen) {
        let (priority, others) = (live.work.priority(), live.work.take_others());
        live.seen = Some(seen.clone());
        self.submit(priority, Entrance::CaptionSeen, live);
        self.admit_others(priority, others, &seen);
    }

    /// Takes in the other asks about a picture that has been seen.
    fn admit_others(&mut self, priority: Priority, others: Vec<Work>, seen: &Seen) {
        for work in others {
            let Work::Caption { request, at, .. } = &work else { continue };
            match Sequence::new(&self.loaded.tokenizer, &request.asks[*at]) {
                Ok(sequence) => {
                    let live = Live { seen: Some(seen.clone()), sequence: Some(sequence), ..Live::new(work) };
                    self.submit(priority, Entrance::CaptionSeen, live);
                }
                Err(error) => work.fail(error),
            }
        }
    }

    fn sweep_cancelled(&mut self) {
        let gone: Vec<RequestId> =
            self.live.iter().filter(|(_, live)| live.work.is_cancelled()).map(|(id, _)| *id).collect();
        for id in gone {
            self.leave(id);
        }
    }

    /// Takes a request out of the scheduler and the cache.
    fn leave(&mut self, id: RequestId) -> Option<Live> {
        if let Some(slot) = self.scheduler.finish(id) {
            self.cache.free(slot);
        }
        self.live.remove(&id)
    }

    fn run_batch(&mut self, batch: NextBatch) {
        let limits = self.scheduler.limits();
        let (stage, rows, capacity) = match &batch {
            NextBatch::Text { requests } => (Stage::Text, requests.len(), requests.len()),
            NextBatch::Vision { requests } => (Stage::Vision, requests.len(), limits.vision_batch),
            NextBatch::Prefill { seats } => (Stage::Prefill, seats.len(), limits.prefill_batch),
            NextBatch::Decode { seats } => (Stage::Decode, seats.len(), limits.slots),
        };
        let since = Instant::now();
        self.interludes = 0.0;
        match batch {
            NextBatch::Text { requests } => self.text(&requests),
            NextBatch::Vision { requests } => {
                in_pieces(&requests, self.throttles.vision.rows(), |piece| self.vision(piece));
            }
            NextBatch::Prefill { seats } => {
                in_pieces(&seats, self.throttles.prefill.rows(), |piece| self.seats(Stage::Prefill, piece));
            }
            NextBatch::Decode { seats } => {
                in_pieces(&seats, self.throttles.decode.rows(), |piece| self.seats(Stage::Decode, piece));
            }
        }
        let seconds = since.elapsed().as_secs_f64() - self.interludes;
        self.observer.stage(stage, seconds, rows, capacity);
    }

    /// Runs a long step over `rows`, and answers queries between its layers.
    fn attentively<T>(
        &mut self,
        rows: &[RequestId],
        step: impl FnOnce(&dyn Network, &mut KvCache, &HashMap<RequestId, Live>, Pause<'_>) -> T,
    ) -> T {
        let is_query = |live: &Live| matches!(live.work, Work::Text { .. } | Work::Picture { .. });
        let mut queries: Vec<RequestId> = self
            .live
            .iter()
            .filter(|(id, live)| is_query(live) && !rows.contains(id))
            .map(|(id, _)| *id)
            .collect();
        queries.sort_unstable();
        let waiting = queries.into_iter().filter_map(|id| self.leave(id)).map(|live| live.work).collect();
        let dimension = self.dimension();
        let mut interlude = Interlude::new(&*self.network, &self.inbox, &*self.observer, dimension, waiting);
        let done = step(&*self.network, &mut self.cache, &self.live, &mut || interlude.pause());
        let (later, seconds) = interlude.end();
        self.arrived.extend(later);
        self.interludes += seconds;
        done
    }

    fn text(&mut self, requests: &[RequestId]) {
        for id in requests {
            let Some(Live { work: Work::Text { text, reply }, .. }) = self.leave(*id) else { continue };
            let embedded = contained(Stage::Text, || self.network.text(&text));
            // Nobody listening is fine: the request was cancelled.
            let _ = reply.send(embedded);
        }
    }

    /// A batch that fails is tried again in halves, so that one picture never fails its neighbours.
    fn vision(&mut self, requests: &[RequestId]) {
        let present: Vec<RequestId> =
            requests.iter().copied().filter(|id| self.live.contains_key(id)).collect();
        if present.is_empty() || self.fatal.is_some() {
            return;
        }
        let began = self.begin();
        let sights = self.attentively(&present, |network, _, live, pause| {
            let wanted: Vec<Wanted<'_>> = present.iter().filter_map(|id| wanted(&live[id].work)).collect();
            contained(Stage::Vision, || network.vision(&wanted, pause))
        });
        match sights {
            Ok(sights) => {
                self.throttles.vision.went_well(present.len());
                self.spent(Stage::Vision, began, present.iter().copied());
                for (id, sight) in present.into_iter().zip(sights) {
                    self.seen(id, sight);
                }
            }
            Err(error) if self.is_fatal(Stage::Vision, present.len(), &error) => self.fatal = Some(error),
            Err(error) if present.len() == 1 => self.fail(present[0], error),
            Err(error) => {
                tracing::warn!(batch.rows = present.len(), %error, "vision batch failed, trying it in halves");
                let (first, second) = present.split_at(present.len() / 2);
                self.vision(first);
                self.vision(second);
            }
        }
    }

    fn seen(&mut self, id: RequestId, sight: Sight) {
        let Some(live) = self.live.get_mut(&id) else { return };
        if let Some(key) = live.key {
            match sight.for_caption() {
                Some(seen) => {
                    self.features.insert(key, seen.clone());
                    live.seen = Some(seen.clone());
                    let (priority, others) = (live.work.priority(), live.work.take_others());
                    self.admit_others(priority, others, &seen);
                }
                None => self.fail(id, EngineError::Model("the vision step gave no image tokens".to_owned())),
            }
            return;
        }
        let Some(live) = self.leave(id) else { return };
        // Nobody listening is fine: the request was cancelled.
        match live.work {
            Work::Picture { reply, .. } => {
                let vectors = sight.embedding.map(|flat| vectors(&flat, self.dimension()));
                let _ = reply.send(vectors.ok_or(EngineError::NoRetrievalHead));
            }
            Work::Match { reply, .. } => {
                let _ = reply.send(sight.log_odds.ok_or(EngineError::NoRetrievalHead));
            }
            Work::Caption { .. } | Work::Text { .. } => {}
        }
    }

    /// Values of an embedding's vector.
    fn dimension(&self) -> usize {
        self.loaded.model.retrieval().map_or(1, |head| head.config().embed_dim)
    }

    /// Prefill or decode of these seats; in halves after a failure, as for [`Self::vision`].
    fn seats(&mut self, stage: Stage, seats: &[Seat]) {
        if seats.is_empty() || self.fatal.is_some() {
            return;
        }
        let began = self.begin();
        let seats = &*self.by_adapter(seats);
        let logits = match stage {
            Stage::Prefill => self.prefill(seats),
            _ => contained(stage, || self.decode(seats)),
        };
        match logits {
            Ok(rows) => {
                self.throttle(stage).went_well(rows.len());
                self.observer.tokens(rows.len());
                self.spent(stage, began, seats.iter().map(|seat| seat.request));
                for (seat, row) in seats.iter().zip(rows) {
                    self.say(*seat, &row);
                }
            }
            Err(error) if self.is_fatal(stage, seats.len(), &error) => self.fatal = Some(error),
            Err(error) if seats.len() == 1 => self.fail(seats[0].request, error),
            Err(error) => {
                tracing::warn!(
                    batch.rows = seats.len(), step = stage.as_str(), %error, "batch failed, trying it in halves"
                );
                let (first, second) = seats.split_at(seats.len() / 2);
                self.seats(stage, first);
                self.seats(stage, second);
            }
        }
    }

    fn begin(&self) -> Began {
        Began { at: Instant::now(), interludes: self.interludes }
    }

    /// Shares a step's time out among its rows, without what went into answers between its layers: whoever asked those was
    /// no part of it.
    fn spent(&mut self, stage: Stage, began: Began, rows: impl ExactSizeIterator<Item = RequestId>) {
        let (span, count) = ((began.at, Instant::now()), rows.len());
        let elsewhere = self.interludes - began.interludes;
        for id in rows {
            if let Some(live) = self.live.get_mut(&id) {
                live.device.add_step(stage, span, elsewhere, count);
            }
        }
    }

    /// Seats of the same adapter side by side: each adapter's products run once a step. No row's numbers depend on it.
    fn by_adapter<'a>(&self, seats: &'a [Seat]) -> Cow<'a, [Seat]> {
        let digest =
            |seat: &Seat| self.live.get(&seat.request)?.work.adapter().map(|adapter| adapter.digest());
        if seats.iter().all(|seat| digest(seat).is_none()) {
            return Cow::Borrowed(seats);
        }
        let mut sorted = seats.to_vec();
        sorted.sort_by_key(digest);
        Cow::Owned(sorted)
    }

    /// Notes that memory ran out, so that the next batches are smaller. True when one row alone does not fit: then this
    /// worker can do nothing, and the requests are for another one.
    fn is_fatal(&mut self, stage: Stage, rows: usize, error: &EngineError) -> bool {
        if !matches!(error, EngineError::OutOfMemory(_)) {
            return false;
        }
        self.observer.out_of_memory(stage, rows);
        !self.throttle(stage).ran_out(rows)
    }

    fn throttle(&mut self, stage: Stage) -> &mut Throttle {
        match stage {
            Stage::Text | Stage::Vision => &mut self.throttles.vision,
            Stage::Prefill => &mut self.throttles.prefill,
            Stage::Decode | Stage::Null => &mut self.throttles.decode,
        }
    }

    fn prefill(&mut self, seats: &[Seat]) -> Result<Vec<Vec<f32>>, EngineError> {
        let rows = contained(Stage::Prefill, || self.prefill_rows(seats))?;
        self.attentively(&[], |network, cache, _, pause| {
            contained(Stage::Prefill, || network.prefill(&rows, cache, pause))
        })
    }

    fn prefill_rows(&self, seats: &[Seat]) -> Result<Vec<PrefillRow>, EngineError> {
        seats
            .iter()
            .map(|seat| {
                let (sequence, seen) = self
                    .live
                    .get(&seat.request)
                    .and_then(|live| live.sequence.as_ref().zip(live.seen.as_ref()))
                    .ok_or_else(|| EngineError::Model("a prompt came before its picture".to_owned()))?;
                let embeds = self.loaded.model.embed_prompt(sequence.prompt(), &seen.image_tokens)?;
                let adapter = self.live.get(&seat.request).and_then(|live| live.work.adapter().cloned());
                Ok(PrefillRow { slot: seat.slot, embeds, adapter })
            })
            .collect()
    }

    fn decode(&mut self, seats: &[Seat]) -> Result<Vec<Vec<f32>>, EngineError> {
        let rows = seats
            .iter()
            .map(|seat| {
                let token = self
                    .live
                    .get(&seat.request)
                    .and_then(|live| live.sequence.as_ref()?.last_token())
                    .ok_or_else(|| EngineError::Model("a sequence went on before its prompt".to_owned()))?;
                Ok(DecodeRow { slot: seat.slot, token })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        self.network.decode(&rows, &mut self.cache)
    }

    /// Chooses a row's next token and ends the sequence if it was the last.
    fn say(&mut self, seat: Seat, logits: &[f32]) {
        let is_full = self.cache.len(seat.slot) >= self.cache.max_len();
        let Some(sequence) = self.live.get_mut(&seat.request).and_then(|live| live.sequence.as_mut()) else {
            return;
        };
        match sequence.say(logits) {
            Ok(Some(reason)) => self.end(seat.request, reason),
            Ok(None) if is_full => self.end(seat.request, StopReason::ContextFull),
            Ok(None) => {}
            Err(error) => self.fail(seat.request, error),
        }
    }

    fn end(&mut self, id: RequestId, reason: StopReason) {
        let Some(Live {
            work: Work::Caption { request, at, reply, .. },
            sequence: Some(sequence),
            seen,
            device,
            ..
        }) = self.leave(id)
        else {
            return;
        };
        let embedding = seen.and_then(|seen| seen.embedding).filter(|_| request.embed && at == 0);
        let said = sequence.result(&self.loaded.tokenizer, reason);
        // Nobody listening is fine: the request was cancelled.
        let _ = reply.send(said.map(|said| OneAnswer { said, embedding, device }));
    }

    fn fail(&mut self, id: RequestId, error: EngineError) {
        if let Some(live) = self.leave(id) {
            live.work.fail(error);
        }
    }
}

fn wanted(work: &Work) -> Option<Wanted<'_>> {
    match work {
        Work::Caption { request, .. } => Some(Wanted {
            picture: &request.picture,
            caption: true,
            embed: request.embed,
            adapter: request.adapter.as_ref(),
            text: None,
        }),
        Work::Picture { picture, .. } => Some(Wanted::embedding(picture)),
        Work::Match { picture, text, .. } => {
            Some(Wanted { embed: false, text: Some(&text.0), ..Wanted::embedding(picture) })
        }
        Work::Text { .. } => None,
    }
}

/// Runs a batch in pieces of at most `rows`.
fn in_pieces<T>(batch: &[T], rows: usize, run: impl FnMut(&[T])) {
    batch.chunks(rows.max(1)).for_each(run);
}
