//! Requests come and go.

use super::DeviceThread;
use crate::engine::feature_cache::{Seen, key_of};
use crate::engine::request::{Priority, RequestId, Work};
use crate::engine::scheduler::Entrance;
use crate::engine::sequence::{Live, Sequence};

impl DeviceThread {
    pub(super) fn admit(&mut self, work: Work) {
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
    pub(super) fn admit_others(&mut self, priority: Priority, others: Vec<Work>, seen: &Seen) {
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

    pub(super) fn sweep_cancelled(&mut self) {
        let gone: Vec<RequestId> =
            self.live.iter().filter(|(_, live)| live.work.is_cancelled()).map(|(id, _)| *id).collect();
        for id in gone {
            self.leave(id);
        }
    }

    /// Takes a request out of the scheduler and the cache.
    pub(super) fn leave(&mut self, id: RequestId) -> Option<Live> {
        if let Some(slot) = self.scheduler.finish(id) {
            self.cache.free(slot);
        }
        self.live.remove(&id)
    }
}
