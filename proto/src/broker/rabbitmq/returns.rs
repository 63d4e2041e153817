//! Which confirmed publishes were in truth returned as unroutable.
//!
//! The broker sends the returned message just before the confirm of the same publish. The client library puts
//! returned messages in a line and hands the first of them to whichever publish completes next, so with many
//! publishes on their way it arrives with a stranger. What holds: when a publish completes, its own returned message
//! has been handed out before, is handed out with it, or still stands in the line, and in the last case the publish
//! was itself given a stranger's. So only a publish that completes with a stranger's message is in doubt, and only
//! until everything sent before that moment has completed, which empties the line.

use std::collections::HashMap;

/// What identifies a message that comes back: the queue it was meant for and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Published {
    pub(super) queue: String,
    pub(super) id: String,
}

/// One acked publish, about to be reported.
pub(super) struct Acked<R> {
    pub(super) number: u64,
    pub(super) published: Published,
    /// The returned message that came with the confirm.
    pub(super) returned: Option<Published>,
    pub(super) request: R,
}

/// What became of an acked publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Arrived,
    Unroutable,
}

/// The bookkeeping of one channel.
pub(super) struct Returns<R> {
    /// Returned messages, each with the last number that it may belong to.
    seen: HashMap<Published, u64>,
    /// Acked publishes in doubt, each with the last number that must complete first.
    doubtful: Vec<(u64, Acked<R>)>,
}

impl<R> Returns<R> {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), doubtful: Vec::new() }
    }

    /// A returned message that came with a refused publish.
    pub(super) fn note(&mut self, returned: Published, last_sent: u64) {
        self.seen.insert(returned, last_sent);
    }

    /// Sorts out one batch of acked publishes.
    ///
    /// `last_sent` is the number of the latest publish sent, `oldest_pending` that of the oldest still on its way.
    /// Two publishes of one id to one queue at the same time share their fate.
    pub(super) fn sort(
        &mut self,
        acked: Vec<Acked<R>>,
        last_sent: u64,
        oldest_pending: Option<u64>,
    ) -> Vec<(R, Verdict)> {
        for returned in acked.iter().filter_map(|acked| acked.returned.clone()) {
            self.note(returned, last_sent);
        }
        let mut verdicts = Vec::with_capacity(acked.len());
        let doubtful = std::mem::take(&mut self.doubtful);
        let fresh = acked.into_iter().map(|acked| (last_sent, acked));
        for (wait_for, acked) in doubtful.into_iter().chain(fresh) {
            if self.seen.get(&acked.published).is_some_and(|last| acked.number <= *last) {
                verdicts.push((acked.request, Verdict::Unroutable));
            } else if acked.returned.is_none() || oldest_pending.is_none_or(|oldest| oldest > wait_for) {
                verdicts.push((acked.request, Verdict::Arrived));
            } else {
                self.doubtful.push((wait_for, acked));
            }
        }
        self.seen.retain(|_, last| {
            oldest_pending.is_some_and(|oldest| oldest <= *last) || !self.doubtful.is_empty()
        });
        verdicts
    }

    /// Gives up on those in doubt: the channel is gone, they are to be sent again.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = R> {
        self.seen.clear();
        std::mem::take(&mut self.doubtful).into_iter().map(|(_, acked)| acked.request)
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Arrived, Unroutable};
    use super::*;

    fn published(id: u64) -> Published {
        Published { queue: "q".to_owned(), id: id.to_string() }
    }

    fn acked(number: u64, returned: Option<u64>) -> Acked<u64> {
        Acked { number, published: published(number), returned: returned.map(published), request: number }
    }

    #[test]
    fn without_returned_messages_everything_arrives_at_once() {
        let verdicts = Returns::new().sort(vec![acked(2, None), acked(1, None)], 5, Some(3));
        assert_eq!(verdicts, [(2, Arrived), (1, Arrived)]);
    }

    #[test]
    fn a_returned_message_that_came_with_a_stranger_is_found() {
        let mut returns = Returns::new();
        // 3's message comes with 1, which is in doubt from then on.
        assert_eq!(returns.sort(vec![acked(1, Some(3))], 4, Some(2)), []);
        // 2 completes clean: had its message been in the line, it would have been given one.
        assert_eq!(returns.sort(vec![acked(2, None)], 4, Some(3)), [(2, Arrived)]);
        assert_eq!(returns.sort(vec![acked(3, None)], 6, Some(4)), [(3, Unroutable)]);
        assert_eq!(returns.sort(vec![acked(4, None)], 6, Some(5)), [(1, Arrived), (4, Arrived)]);
        assert!(returns.seen.is_empty());
    }

    #[test]
    fn two_that_swapped_their_messages_are_both_unroutable() {
        let mut returns = Returns::new();
        assert_eq!(returns.sort(vec![acked(1, Some(2))], 2, Some(2)), []);
        assert_eq!(returns.sort(vec![acked(2, Some(1))], 2, None), [(1, Unroutable), (2, Unroutable)]);
    }

    #[test]
    fn a_later_publish_of_the_same_id_is_not_blamed() {
        let mut returns = Returns::new();
        let verdicts = returns.sort(vec![acked(1, Some(1))], 2, Some(2));
        assert_eq!(verdicts, [(1, Unroutable)]);
        let again = Acked { number: 3, published: published(1), returned: None, request: 3 };
        assert_eq!(returns.sort(vec![again], 3, Some(2)), [(3, Arrived)]);
    }

    #[test]
    fn those_in_doubt_are_given_back_when_the_channel_dies() {
        let mut returns = Returns::new();
        assert_eq!(returns.sort(vec![acked(1, Some(9))], 9, Some(2)), []);
        assert_eq!(returns.abandon().collect::<Vec<_>>(), [1]);
    }
}
