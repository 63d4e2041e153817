//! A job's turn: how long one hand-over of it is held.
//!
//! A broker does not wait for ever: `RabbitMQ` closes the channel of a consumer that holds a delivery for longer than
//! `consumer_timeout` (half an hour unless it is told otherwise), and hands out again everything that was in hand on it. How long a
//! job takes cannot be told: a store may stall over every item, and in quarantine one waits for the other. So a job that is
//! not done when its turn is over puts down the rows that it has, as a part that is not whole yet, and goes to the end of its
//! queue. Whoever gets it next goes on from there. At least one item is done in every turn that began one, so that a job ends
//! however short turns are.

use std::collections::HashMap;
use std::time::Duration;

use captionfleet_proto::broker::Delivery;
use captionfleet_proto::job::JobItem;
use captionfleet_proto::layout;
use captionfleet_proto::rows::{Projection, Row, read_part, write_part};
use captionfleet_proto::storage::{PutMode, StorageErrorKind};
use captionfleet_proto::uri::ItemUri;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::outcome::MessageFacts;
use super::task::{Received, Suspicion};
use super::{Failure, Pipeline};
use crate::telemetry::events;

/// No part is larger: 10,000 rows with their embeddings.
pub(super) const MAX_PART_BYTES: u64 = 1 << 30;

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
    /// From the rows of an earlier turn, sorted out by item.
    fn from_rows(items: &[JobItem], rows: Vec<Row>) -> Self {
        // Segments of one video have one name; a row belongs to the last one that begins before it.
        let mut places: HashMap<&ItemUri, Vec<(u64, usize)>> = HashMap::new();
        for (at, item) in items.iter().enumerate() {
            places.entry(&item.uri).or_default().push((item.frame_ms.unwrap_or(0), at));
        }
        for places in places.values_mut() {
            places.sort_unstable();
        }
        let mut by_item: HashMap<usize, Vec<Row>> = HashMap::new();
        for row in rows {
            let begins = row.frame_ms.unwrap_or(0);
            let place = places
                .get(&row.item)
                .and_then(|places| places.iter().rev().find(|(start, _)| *start <= begins));
            if let Some((_, at)) = place {
                by_item.entry(*at).or_default().push(row);
            }
        }
        Self { earlier: by_item.len(), items: by_item.into_iter().collect() }
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
        let read = tokio::task::spawn_blocking(move || read_part(object.bytes, Projection::All));
        let rows = read.await.map_err(|error| Failure::Panicked(error.to_string()))?.unwrap_or_default();
        let served = &self.engine.info().bundle;
        // What another model said is no part of what this one says; what cannot be read is done again.
        if rows.iter().any(|row| row.bundle.as_ref() != Some(served)) {
            return Ok(DoneItems::default());
        }
        Ok(DoneItems::from_rows(&task.caption.items, rows))
    }

    /// Keeps what is done of a job whose turn is over.
    pub(super) async fn put_down(&self, task: &Received, done: DoneItems) -> Result<(), Failure> {
        let (key, shape) = (layout::unfinished(&task.run, &task.id), self.embedding_shape());
        let items = done.items.len();
        let bytes = tokio::task::spawn_blocking(move || write_part(&done.into_rows(), shape))
            .await
            .map_err(|error| Failure::Panicked(error.to_string()))?
            .map_err(|source| Failure::Part { part: key.clone(), source })?;
        task.archive.put(&key, bytes, PutMode::Overwrite).await.map_err(Failure::Archive)?;
        events::put_down(&task.run, &task.id, items, task.caption.items.len());
        Ok(())
    }

    /// Removes what earlier turns kept of a job whose part is durable. What stays behind is harmless: the part is found first.
    pub(super) async fn clear_away(&self, task: &Received) {
        if task.suspicion == Suspicion::None {
            return;
        }
        if let Err(error) = task.archive.delete(&layout::unfinished(&task.run, &task.id)).await {
            events::unfinished_left(&task.id, &error);
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
