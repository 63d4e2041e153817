//! One stage's waiting line: interactive requests ahead of bulk ones, and neither forgotten.

use std::collections::VecDeque;

use super::request::{Priority, RequestId};

/// How many batches in a row may leave without a bulk request that waits.
const PATIENCE: u32 = 4;

/// Who waits for one stage, first come first served within a priority.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    interactive: VecDeque<RequestId>,
    bulk: VecDeque<RequestId>,
    /// Batches that left without bulk since bulk was last served.
    passed_over: u32,
}

impl LaneQueue {
    pub(super) fn push(&mut self, request: RequestId, priority: Priority) {
        match priority {
            Priority::Interactive => self.interactive.push_back(request),
            Priority::Bulk => self.bulk.push_back(request),
        }
    }

    pub(super) fn remove(&mut self, request: RequestId) {
        self.interactive.retain(|waiting| *waiting != request);
        self.bulk.retain(|waiting| *waiting != request);
    }

    pub(super) fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn interactive(&self) -> usize {
        self.interactive.len()
    }

    pub(super) fn bulk(&self) -> usize {
        self.bulk.len()
    }

    /// True when the next batch owes bulk a place whatever else waits.
    pub(super) fn owes_bulk(&self) -> bool {
        !self.bulk.is_empty() && self.passed_over >= PATIENCE
    }

    /// Counts a batch that left another queue in front of a bulk request which waits here.
    pub(super) fn pass_over(&mut self) {
        self.passed_over = self.passed_over.saturating_add(u32::from(!self.bulk.is_empty()));
    }

    /// How many requests [`Self::take`] would hand out for the same arguments.
    pub(super) fn available(&self, most: usize, most_bulk: usize) -> usize {
        (self.interactive.len() + self.bulk.len().min(most_bulk)).min(most)
    }

    /// Hands out up to `most` requests, at most `most_bulk` of them bulk: interactive first, except that a bulk
    /// request which has been passed over [`PATIENCE`] times gets the first place.
    pub(super) fn take(&mut self, most: usize, mut most_bulk: usize) -> Vec<RequestId> {
        let mut taken = Vec::with_capacity(most.min(self.len()));
        let bulk_before = self.bulk.len();
        if self.owes_bulk() && most > 0 && most_bulk > 0 {
            taken.extend(self.bulk.pop_front());
            most_bulk -= 1;
        }
        while taken.len() < most
            && let Some(request) = self.interactive.pop_front()
        {
            taken.push(request);
        }
        while taken.len() < most
            && most_bulk > 0
            && let Some(request) = self.bulk.pop_front()
        {
            taken.push(request);
            most_bulk -= 1;
        }
        let bulk_was_left_out = bulk_before > 0 && self.bulk.len() == bulk_before;
        if bulk_was_left_out && !taken.is_empty() {
            self.pass_over();
        } else if !bulk_was_left_out {
            self.passed_over = 0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(interactive: &[u64], bulk: &[u64]) -> LaneQueue {
        let mut queue = LaneQueue::default();
        for id in bulk {
            queue.push(RequestId(*id), Priority::Bulk);
        }
        for id in interactive {
            queue.push(RequestId(*id), Priority::Interactive);
        }
        queue
    }

    fn ids(taken: &[RequestId]) -> Vec<u64> {
        taken.iter().map(|id| id.0).collect()
    }

    #[test]
    fn interactive_goes_first_and_bulk_fills_the_rest() {
        let mut queue = queue(&[10, 11], &[1, 2, 3]);
        assert_eq!(ids(&queue.take(4, 4)), [10, 11, 1, 2]);
        assert_eq!(ids(&queue.take(4, 4)), [3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn bulk_keeps_off_the_places_reserved_for_interactive() {
        let mut queue = queue(&[10], &[1, 2, 3]);
        assert_eq!(queue.available(3, 1), 2);
        assert_eq!(ids(&queue.take(3, 1)), [10, 1]);
    }

    #[test]
    fn who_is_owed_a_place_waits_for_a_batch_that_has_one() {
        let mut queue = queue(&[], &[1, 2]);
        for _ in 0..PATIENCE {
            assert!(!queue.owes_bulk());
            queue.pass_over();
        }
        assert!(queue.take(0, 5).is_empty() && queue.take(5, 0).is_empty());
        assert!(queue.owes_bulk(), "an empty batch serves nobody");
        assert_eq!(ids(&queue.take(1, 1)), [1]);
        assert!(!queue.owes_bulk());
    }

    #[test]
    fn bulk_is_served_although_interactive_never_ends() {
        let mut queue = queue(&[], &[1]);
        for round in 0..=PATIENCE {
            queue.push(RequestId(100 + u64::from(round)), Priority::Interactive);
            queue.push(RequestId(200 + u64::from(round)), Priority::Interactive);
            let taken = queue.take(1, 1);
            assert_eq!(taken.len(), 1);
            if taken == [RequestId(1)] {
                assert_eq!(round, PATIENCE);
                return;
            }
        }
        panic!("the bulk request was never served");
    }
}
