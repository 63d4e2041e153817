//! Which batch the device runs next: a pure function of who waits, who runs and what is free.
//!
//! The device does one thing at a time. Between two decode steps the scheduler lets in what fills the free slots
//! (text embeddings, then vision and prefill), bounded so that running sequences always move on. A finished sequence's
//! slot is therefore taken again before the next decode step, as long as anything waits. Nothing here knows a tensor,
//! a clock or a thread.

use std::collections::{BTreeMap, BTreeSet};

use super::lane_queue::LaneQueue;
use super::request::{Priority, RequestId};

/// Text queries that share one step.
const TEXT_BATCH: usize = 8;

/// A sequence's seat: the request and its KV slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Whose seat it is.
    pub request: RequestId,
    /// Index of the KV slot.
    pub slot: usize,
}

/// What one step may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that decode together.
    pub slots: usize,
    /// Further slots that only interactive requests take, so that one never waits for a long bulk caption.
    pub reserved_slots: usize,
    /// Pictures in one pass of the vision tower.
    pub vision_batch: usize,
    /// Prompts in one prefill.
    pub prefill_batch: usize,
}

impl Limits {
    /// All slots, the reserved ones included.
    pub fn all_slots(&self) -> usize {
        self.slots + self.reserved_slots
    }

    /// Steps that fill every slot from empty: what may run between two decode steps.
    fn rounds_to_fill(&self) -> usize {
        self.all_slots().div_ceil(self.vision_batch) + self.all_slots().div_ceil(self.prefill_batch)
    }
}

/// Where a request starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// A text query: one step, then done.
    Text,
    /// A picture that the retrieval heads alone look at: one vision batch, then done.
    Picture,
    /// A picture to caption: vision, prefill, decode.
    Caption,
    /// A picture to caption whose vision output is at hand: prefill, decode.
    CaptionSeen,
}

/// The device's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextBatch {
    /// Embed these text queries.
    Text {
        /// In the order of their rows.
        requests: Vec<RequestId>,
    },
    /// One pass of the vision tower over these pictures.
    Vision {
        /// In the order of their rows.
        requests: Vec<RequestId>,
    },
    /// Read the prompts of these new sequences into their slots.
    Prefill {
        /// In the order of their rows.
        seats: Vec<Seat>,
    },
    /// One more token for every running sequence.
    Decode {
        /// In the order of their rows.
        seats: Vec<Seat>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Vision {
        then_prefill: bool,
    },
    Ready,
    Running {
        slot: usize,
    },
    /// Its last step was handed out; only [`Scheduler::finish`] is missing.
    Leaving,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    priority: Priority,
    place: Place,
}

/// The state from which the next batch follows.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    entries: BTreeMap<RequestId, Entry>,
    text: LaneQueue,
    vision: LaneQueue,
    /// Pictures for the retrieval heads only; they need no slot.
    vision_only: LaneQueue,
    ready: LaneQueue,
    running: BTreeMap<usize, RequestId>,
    free: BTreeSet<usize>,
    /// Admission steps since the last decode step.
    admitted: usize,
    /// Vision batches that went ahead of a possible prefill to make it fuller.
    prefill_deferred: usize,
    text_was_last: bool,
    embed_only_leads: bool,
}

impl Scheduler {
    /// An idle scheduler. Sizes of zero are taken as one.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
            slots: limits.slots.max(1),
            reserved_slots: limits.reserved_slots,
            vision_batch: limits.vision_batch.max(1),
            prefill_batch: limits.prefill_batch.max(1),
        };
        Self {
            limits,
            entries: BTreeMap::new(),
            text: LaneQueue::default(),
            vision: LaneQueue::default(),
            vision_only: LaneQueue::default(),
            ready: LaneQueue::default(),
            running: BTreeMap::new(),
            free: (0..limits.all_slots()).collect(),
            admitted: 0,
            prefill_deferred: 0,
            text_was_last: false,
            embed_only_leads: false,
        }
    }

    /// What the scheduler was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a new request in. An id that is already known is ignored.
    pub fn submit(&mut self, request: RequestId, priority: Priority, entrance: Entrance) {
        if self.entries.contains_key(&request) {
            return;
        }
        let (queue, place) = match entrance {
            Entrance::Text => (&mut self.text, Place::Text),
            Entrance::Picture => (&mut self.vision_only, Place::Vision { then_prefill: false }),
            Entrance::Caption => (&mut self.vision, Place::Vision { then_prefill: true }),
            Entrance::CaptionSeen => (&mut self.ready, Place::Ready),
        };
        queue.push(request, priority);
        self.entries.insert(request, Entry { priority, place });
    }

    /// Forgets a request wherever it is: done, failed or cancelled. Returns the slot it held, now free.
    pub fn finish(&mut self, request: RequestId) -> Option<usize> {
        let entry = self.entries.remove(&request)?;
        match entry.place {
            Place::Text => self.text.remove(request),
            Place::Vision { then_prefill: true } => self.vision.remove(request),
            Place::Vision { then_prefill: false } => self.vision_only.remove(request),
            Place::Ready => self.ready.remove(request),
            Place::Leaving => {}
            Place::Running { slot } => {
                self.running.remove(&slot);
                self.free.insert(slot);
                return Some(slot);
            }
        }
        None
    }

    /// Requests that have not finished.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing waits and nothing runs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sequences that hold a slot.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Chooses the next step and takes it as done: a pictured caption becomes ready for its prefill, a prefilled one
    /// runs. Whoever the step ends is reported through [`Self::finish`].
    pub fn next_batch(&mut self) -> Option<NextBatch> {
        let somebody_waits = !self.running.is_empty();
        if self.may_admit()
            && let Some(batch) = self.admission()
        {
            // A step that keeps no running sequence waiting costs nobody anything.
            self.admitted += usize::from(somebody_waits);
            self.text_was_last = matches!(batch, NextBatch::Text { .. });
            return Some(batch);
        }
        if self.running.is_empty() {
            return None;
        }
        self.admitted = 0;
        let seats =
            self.running.iter().map(|(slot, request)| Seat { request: *request, slot: *slot }).collect();
        Some(NextBatch::Decode { seats })
    }

    /// Running sequences wait for at most as many steps as fill all slots once; when someone watches one of them, for one.
    fn may_admit(&self) -> bool {
        let watched = self.running.values().any(|request| self.is_interactive(*request));
        let allowance = if watched { 1 } else { self.limits.rounds_to_fill() };
        self.running.is_empty() || self.admitted < allowance
    }

    fn is_interactive(&self, request: RequestId) -> bool {
        self.entries.get(&request).is_some_and(|entry| entry.priority == Priority::Interactive)
    }

    fn admission(&mut self) -> Option<NextBatch> {
        let others_wait = self.seatable() > 0 || self.vision_room() > 0 || !self.vision_only.is_empty();
        let texts_had_their_turn = self.text_was_last && others_wait;
        if !self.text.is_empty() && !texts_had_their_turn {
            return Some(self.text_batch());
        }
        if self.prefill_goes_first() {
            return Some(self.prefill_batch());
        }
        if let Some(batch) = self.vision_batch() {
            return Some(batch);
        }
        (self.seatable() > 0).then(|| self.prefill_batch())
    }

    /// Free slots that bulk may take. One that was passed over too often may use a reserved slot too.
    fn free_for_bulk(&self) -> usize {
        let unreserved = self.free.len().saturating_sub(self.limits.reserved_slots);
        if self.ready.owes_bulk() { unreserved.max(1).min(self.free.len()) } else { unreserved }
    }

    /// Ready sequences that could be seated now.
    fn seatable(&self) -> usize {
        if self.free.is_empty() {
            return 0;
        }
        self.ready.available(self.free.len(), self.free_for_bulk())
    }

    /// Captions that may pass the vision tower now: as many as could be ready at once, and whoever is interactive. One of bulk
    /// that was passed over too often may, whether there is a free slot or not, if no other stands ready.
    fn vision_room(&self) -> usize {
        let room_for_bulk = self.limits.all_slots().saturating_sub(self.ready.bulk());
        let wanted = self.free_for_bulk().saturating_sub(self.ready.len());
        let bulk = if wanted > 0 {
            self.vision.bulk().min(room_for_bulk)
        } else {
            usize::from(self.vision_owes_bulk())
        };
        self.vision.interactive() + bulk
    }

    fn vision_owes_bulk(&self) -> bool {
        self.vision.owes_bulk() && self.ready.bulk() == 0
    }

    fn prefill_goes_first(&self) -> bool {
        let seatable = self.seatable();
        if seatable == 0 || self.vision_owes_bulk() {
            return false;
        }
        if self.ready.interactive() > 0 || self.vision_room() == 0 {
            return true;
        }
        let is_full = seatable >= self.limits.prefill_batch.min(self.free.len());
        let may_wait = self.prefill_deferred < self.limits.all_slots().div_ceil(self.limits.vision_batch);
        // A prefill of bulk, however full, would keep the person waiting whose picture has not been seen.
        (is_full && self.vision.interactive() == 0) || !may_wait
    }

    fn text_batch(&mut self) -> NextBatch {
        let requests = self.text.take(TEXT_BATCH, TEXT_BATCH);
        for request in &requests {
            self.place(*request, Place::Leaving);
        }
        NextBatch::Text { requests }
    }

    fn vision_batch(&mut self) -> Option<NextBatch> {
        let most = self.limits.vision_batch;
        let room_for_captions = self.vision_room();
        // While both kinds keep coming each has half of the batch, the odd place in turn.
        self.embed_only_leads = !self.embed_only_leads;
        let share = if room_for_captions == 0 {
            most
        } else if self.embed_only_leads {
            most.div_ceil(2)
        } else {
            most / 2
        };
        let mut requests = self.vision_only.take(share, share);
        if room_for_captions > 0 {
            let room_for_bulk = room_for_captions - self.vision.interactive();
            requests.extend(self.vision.take(most - requests.len(), room_for_bulk));
        }
        let rest = most - requests.len();
        requests.extend(self.vision_only.take(rest, rest));
        if requests.is_empty() {
            return None;
        }
        if self.seatable() > 0 {
            self.prefill_deferred += 1;
        }
        for request in &requests {
            self.leave_vision(*request);
        }
        Some(NextBatch::Vision { requests })
    }

    fn leave_vision(&mut self, request: RequestId) {
        let Some(entry) = self.entries.get_mut(&request) else { return };
        if entry.place == (Place::Vision { then_prefill: true }) {
            entry.place = Place::Ready;
            self.ready.push(request, entry.priority);
        } else {
            entry.place = Place::Leaving;
        }
    }

    fn prefill_batch(&mut self) -> NextBatch {
        let most = self.limits.prefill_batch.min(self.free.len());
        let bulk_is_ready = self.ready.bulk() > 0;
        let requests = self.ready.take(most, self.free_for_bulk());
        if !bulk_is_ready {
            self.vision.pass_over();
        }
        let mut seats = Vec::with_capacity(requests.len());
        for request in requests {
            let slot = self.free.pop_first().expect("no more requests were taken than slots are free");
            self.running.insert(slot, request);
            self.place(request, Place::Running { slot });
            seats.push(Seat { request, slot });
        }
        self.prefill_deferred = 0;
        NextBatch::Prefill { seats }
    }

    fn place(&mut self, request: RequestId, place: Place) {
        if let Some(entry) = self.entries.get_mut(&request) {
            entry.place = place;
        }
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
