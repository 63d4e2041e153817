//! The device thread: takes requests in, runs the scheduler's next step, answers.

mod answers;
mod arrivals;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::{KvCache, Pause};

use self::rows::wanted;
use super::contained::contained;
use super::feature_cache::FeatureCache;
use super::interlude::Interlude;
use super::network::Network;
use super::observer::{EngineObserver, Stage};
use super::pulse::Pulse;
use super::request::{RequestId, Work};
use super::scheduler::{NextBatch, Scheduler, Seat};
use super::sequence::Live;
use super::step::{Scores, Wanted};
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
    /// Seconds of the running batch that are not its own: answers between its layers, and the choice of tokens.
    elsewhere: f64,
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

/// When a step began, and how much of its batch's time had gone elsewhere by then.
#[derive(Clone, Copy)]
struct Began {
    at: Instant,
    elsewhere: f64,
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
                vision: Throttle::new(limits.vision_batch),
                prefill: Throttle::new(limits.prefill_batch),
                decode: Throttle::new(limits.all_slots()),
            },
            cache,
            scheduler: Scheduler::new(limits),
            live: HashMap::new(),
            features: FeatureCache::new(options.feature_cache),
            observer,
            inbox,
            arrived: Vec::new(),
            elsewhere: 0.0,
            pulse,
            next_id: 0,
            fatal: None,
        }
    }

    /// Runs until every handle is gone, until not even one row fits the device's memory, or until the device is broken. What
    /// is unfinished then is answered with [`EngineError::Stopped`]: another worker can do it.
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

    fn run_batch(&mut self, batch: NextBatch) {
        let limits = self.scheduler.limits();
        let (stage, rows, capacity) = match &batch {
            NextBatch::Text { requests } => (Stage::Text, requests.len(), requests.len()),
            NextBatch::Vision { requests } => (Stage::Vision, requests.len(), limits.vision_batch),
            NextBatch::Prefill { seats } => (Stage::Prefill, seats.len(), limits.prefill_batch),
            NextBatch::Decode { seats } => (Stage::Decode, seats.len(), limits.slots),
        };
        self.tell_waits(&batch);
        let since = Instant::now();
        self.elsewhere = 0.0;
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
        let seconds = since.elapsed().as_secs_f64() - self.elsewhere;
        self.observer.stage(stage, seconds, rows, capacity);
    }

    /// Tells how long those have waited whose first step this is.
    fn tell_waits(&self, batch: &NextBatch) {
        let tell = |id: &RequestId| {
            let new = self.live.get(id).filter(|live| live.device.legs().next().is_none());
            if let Some(waited) = new.and_then(|live| live.work.waited()) {
                self.observer.queued(waited);
            }
        };
        match batch {
            NextBatch::Text { requests } | NextBatch::Vision { requests } => requests.iter().for_each(tell),
            // Of a picture that was seen a moment ago.
            NextBatch::Prefill { seats } => seats.iter().map(|seat| &seat.request).for_each(tell),
            NextBatch::Decode { .. } => {}
        }
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
        self.elsewhere += seconds;
        done
    }

    fn text(&mut self, requests: &[RequestId]) {
        for id in requests {
            let Some(Live { work: Work::Text { text, reply }, .. }) = self.leave(*id) else { continue };
            let embedded = contained(Stage::Text, || self.network.text(&text));
            let embedded = embedded.map_err(|error| self.unless_it_ends(Stage::Text, error));
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
            Err(error) if present.len() == 1 => self.fail_alone(Stage::Vision, present[0], error),
            Err(error) => {
                self.note_shortage(Stage::Vision, present.len(), &error);
                tracing::warn!(batch.rows = present.len(), %error, "vision batch failed, trying it in halves");
                let (first, second) = present.split_at(present.len() / 2);
                self.vision(first);
                self.vision(second);
            }
        }
    }

    /// Prefill or decode of these seats; in halves after a failure, as for [`Self::vision`].
    fn seats(&mut self, stage: Stage, seats: &[Seat]) {
        if seats.is_empty() || self.fatal.is_some() {
            return;
        }
        let began = self.begin();
        let seats = &*self.by_adapter(seats);
        let held: Vec<usize> = seats.iter().map(|seat| self.cache.len(seat.slot)).collect();
        let logits = match stage {
            Stage::Prefill => self.prefill(seats),
            _ => contained(stage, || self.decode(seats)),
        };
        if logits.is_err() {
            // What failed may be the copy of a step that the cache has counted.
            for (seat, held) in seats.iter().zip(held) {
                self.cache.rewind(seat.slot, held);
            }
        }
        match logits {
            Ok(rows) => {
                self.throttle(stage).went_well(rows.len());
                self.observer.tokens(rows.len());
                self.spent(stage, began, seats.iter().map(|seat| seat.request));
                self.say(stage, seats, rows);
            }
            Err(error) if seats.len() == 1 => self.fail_alone(stage, seats[0].request, error),
            Err(error) => {
                self.note_shortage(stage, seats.len(), &error);
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
        Began { at: Instant::now(), elsewhere: self.elsewhere }
    }

    /// Shares a step's time out among its rows, without what went into answers between its layers: whoever asked those was
    /// no part of it.
    fn spent(&mut self, stage: Stage, began: Began, rows: impl ExactSizeIterator<Item = RequestId>) {
        let (span, count) = ((began.at, Instant::now()), rows.len());
        let elsewhere = self.elsewhere - began.elsewhere;
        for id in rows {
            if let Some(live) = self.live.get_mut(&id) {
                live.device.add_step(stage, span, elsewhere, count);
            }
        }
    }

    /// Notes that memory ran out, if that was it, so that the next batches are smaller.
    fn note_shortage(&mut self, stage: Stage, rows: usize, error: &EngineError) {
        if matches!(error, EngineError::OutOfMemory(_)) {
            self.observer.out_of_memory(stage, rows);
            self.throttle(stage).ran_out(rows);
        }
    }

    fn fail_alone(&mut self, stage: Stage, id: RequestId, error: EngineError) {
        let answer = self.unless_it_ends(stage, error);
        self.fail(id, answer);
    }

    /// What to answer a request with that failed with no other in its step. One that alone does not fit the device, or that
    /// failed because nothing works there any more, is not to blame: then the thread ends, and it is for another worker.
    fn unless_it_ends(&mut self, stage: Stage, error: EngineError) -> EngineError {
        self.note_shortage(stage, 1, &error);
        if matches!(error, EngineError::OutOfMemory(_)) {
            self.fatal = Some(error);
            return EngineError::Stopped;
        }
        if error.is_failed_step()
            && let Err(found) = contained(stage, || self.network.lives())
        {
            self.fatal = Some(EngineError::Broken(format!("{error}; afterwards {found}")));
            // Before anybody is answered: whose job it is in must be known when that job goes back.
            self.pulse.broke();
            return EngineError::Stopped;
        }
        error
    }

    fn throttle(&mut self, stage: Stage) -> &mut Throttle {
        match stage {
            Stage::Text | Stage::Vision => &mut self.throttles.vision,
            Stage::Prefill => &mut self.throttles.prefill,
            Stage::Decode | Stage::Null => &mut self.throttles.decode,
        }
    }

    fn prefill(&mut self, seats: &[Seat]) -> Result<Vec<Scores>, EngineError> {
        let rows = contained(Stage::Prefill, || self.prefill_rows(seats))?;
        let (loaded, likeliest) = (self.loaded.clone(), self.likeliest_is_enough(seats));
        self.attentively(&[], |network, cache, _, pause| {
            contained(Stage::Prefill, || network.prefill(&rows, cache, pause)?.scores(&loaded, &likeliest))
        })
    }

    fn decode(&mut self, seats: &[Seat]) -> Result<Vec<Scores>, EngineError> {
        let rows = self.decode_rows(seats)?;
        let likeliest = self.likeliest_is_enough(seats);
        self.network.decode(&rows, &mut self.cache)?.scores(&self.loaded, &likeliest)
    }
}

/// Runs a batch in pieces of at most `rows`.
fn in_pieces<T>(batch: &[T], rows: usize, run: impl FnMut(&[T])) {
    batch.chunks(rows.max(1)).for_each(run);
}
