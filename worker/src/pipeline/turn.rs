//! A job's turn: how long one hand-over of it is held.
//!
//! A broker does not wait for ever: `RabbitMQ` closes the channel of a consumer that holds a delivery for longer than
//! `consumer_timeout` (half an hour unless it is told otherwise), and hands out again everything that was in hand on it. How long a
//! job takes cannot be told: a store may stall over every item, and in quarantine one waits for the other. So a job that is
//! not done when its turn is over puts down the rows that it has, as a part that is not whole yet, and goes to the end of its
//! queue. Whoever gets it next goes on from there. At least one item is done in every turn that began one, so that a job ends
//! however short turns are.

use std::time::Duration;

use captionfleet_proto::broker::Delivery;
use captionfleet_proto::job::{JobId, JobItem, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{Row, read_unfinished, write_unfinished};
use captionfleet_proto::storage::{PutMode, Storage, StorageErrorKind};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::outcome::MessageFacts;
use super::task::{Received, Suspicion};
use super::{Failure, Pipeline};
use crate::telemetry::events;

/// No part is larger: 10,000 rows with their embeddings.
pub(super) const MAX_PART_BYTES: u64 = 1 << 30;
/// How long an archive has to take the rows of a job that ends before its time.
const KEEP_WITHIN: Duration = Duration::from_secs(10);

/// When a hand-over must be settled, done or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    ends: Instant,
}

impl Turn {
    /// Begins with the hand-over.
    pub(super) fn new(began: std::time::Instant, limit: Duration) -> Self {
        Self { ends: Instant::from_std(began) + limit }
    }

    /// What is left of it.
    pub(super) fn left(self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.ends
    }

    /// Resolves when it is over.
    pub(super) async fn over(self) {
        sleep_until(self.ends).await;
    }

    /// What `work` comes to, if it does before the turn is over.
    pub(super) async fn within<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.ends, work).await.ok()
    }
}

/// The rows of some of a job's items, each with its item's place in the job.
#[derive(Debug, Default)]
pub(super) struct DoneItems {
    items: Vec<(usize, Vec<Row>)>,
    /// How many of them an earlier turn did.
    earlier: usize,
}

impl DoneItems {
    /// Those of an earlier turn; none if they are of another job.
    fn earlier(items: &[JobItem], done: Vec<(usize, Vec<Row>)>) -> Self {
        let is_of = |(at, rows): &(usize, Vec<Row>)| {
            items.get(*at).is_some_and(|item| rows.iter().all(|row| row.item == item.uri))
        };
        if !done.iter().all(is_of) {
            return Self::default();
        }
        Self { earlier: done.len(), items: done }
    }

    pub(super) fn add(&mut self, at: usize, rows: Vec<Row>) {
        self.items.push((at, rows));
    }

    /// Whether this turn has done any.
    pub(super) fn has_new(&self) -> bool {
        self.items.len() > self.earlier
    }

    /// Which of `items` items are done.
    pub(super) fn which(&self, items: usize) -> Vec<bool> {
        let mut done = vec![false; items];
        for (at, _) in &self.items {
            done[*at] = true;
        }
        done
    }

    /// All rows in the order of the job's items.
    pub(super) fn into_rows(mut self) -> Vec<Row> {
        self.items.sort_unstable_by_key(|(at, _)| *at);
        self.items.into_iter().flat_map(|(_, rows)| rows).collect()
    }
}

impl Pipeline {
    /// What earlier turns have done of a job. Nothing is asked of the archive about a job that had none.
    pub(super) async fn pick_up(&self, task: &Received) -> Result<DoneItems, Failure> {
        if task.suspicion == Suspicion::None {
            return Ok(DoneItems::default());
        }
        let key = layout::unfinished(&task.run, &task.id);
        let object = match task.archive.get(&key, MAX_PART_BYTES).await {
            Ok(object) => object,
            Err(error) => match error.kind() {
                StorageErrorKind::NotFound
                | StorageErrorKind::PermissionDenied
                | StorageErrorKind::Damaged => {
                    return Ok(DoneItems::default());
                }
                _ => return Err(Failure::Archive(error)),
            },
        };
        let read = tokio::task::spawn_blocking(move || read_unfinished(object.bytes));
        let done = read.await.map_err(|error| Failure::Panicked(error.to_string()))?.unwrap_or_default();
        let served = &self.engine.info().bundle;
        // What another model said is no part of what this one says; what cannot be read is done again.
        if done.iter().flat_map(|(_, rows)| rows).any(|row| row.bundle.as_ref() != Some(served)) {
            return Ok(DoneItems::default());
        }
        Ok(DoneItems::earlier(&task.caption.items, done))
    }

    /// Keeps what is done of a job whose turn is over.
    pub(super) async fn put_down(&self, task: &Received, done: DoneItems) -> Result<(), Failure> {
        let (key, shape) = (layout::unfinished(&task.run, &task.id), self.embedding_shape());
        let items = done.items.len();
        let bytes = tokio::task::spawn_blocking(move || write_unfinished(done.items, shape))
            .await
            .map_err(|error| Failure::Panicked(error.to_string()))?
            .map_err(|source| Failure::Part { part: key.clone(), source })?;
        task.archive.put(&key, bytes, PutMode::Overwrite).await.map_err(Failure::Archive)?;
        events::put_down(&task.run, &task.id, items, task.caption.items.len());
        Ok(())
    }

    /// Keeps what is done of a job that ends before its time, where that can be had quickly: whoever gets it next goes on
    /// from there.
    pub(super) async fn keep(&self, task: &Received, done: DoneItems) {
        if !done.has_new() {
            return;
        }
        let kept = tokio::time::timeout(KEEP_WITHIN, self.put_down(task, done)).await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => events::rows_lost(&task.id, &failure),
            Err(late) => events::rows_lost(&task.id, &late),
        }
    }

    /// Gives a job back whose turn is over: to the end of its queue, and as one that somebody has begun.
    pub(super) async fn next_turn(&self, delivery: Delivery) {
        let facts = MessageFacts::of(&delivery.message);
        events::turn_over(&self.metrics, facts.kind, &facts.id);
        if let Err(error) = self.broker.publish(&delivery.queue, delivery.message.clone().again()).await {
            events::settle_failed(&facts.id, &error);
            return self.nack(delivery, &facts.id).await;
        }
        if let Err(error) = delivery.ack().await {
            events::settle_failed(&facts.id, &error);
        }
    }
}

/// Removes what earlier hand-overs left of a job that is over. What stays behind is harmless: the part is found first.
pub(super) async fn clear_away(task: &Received) {
    if task.suspicion != Suspicion::None {
        remove_traces(&*task.archive, &task.run, &task.id).await;
    }
}

/// Removes a job's marker, and rows that were kept of it.
pub(super) async fn remove_traces(archive: &dyn Storage, run: &RunId, job: &JobId) {
    if let Err(error) = archive.delete(&layout::quarantine(run, job)).await {
        events::marker_left(job, &error);
    }
    if let Err(error) = archive.delete(&layout::unfinished(run, job)).await {
        events::unfinished_left(job, &error);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use captionfleet_proto::uri::ItemUri;

    use super::*;

    #[test]
    fn items_without_rows_are_done_and_strangers_are_not() {
        let items: Vec<_> =
            ["a", "b", "c"].map(|name| JobItem::new(ItemUri::s3("films", name))).into_iter().collect();
        let done = DoneItems::earlier(&items, vec![(0, Vec::new()), (2, Vec::new())]);
        assert_eq!(done.which(3), [true, false, true]);
        assert!(!done.has_new());
        let other = DoneItems::earlier(&items, vec![(0, Vec::new()), (3, Vec::new())]);
        assert_eq!(other.which(3), [false; 3], "of a longer job");
    }
}
