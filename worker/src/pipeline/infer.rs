//! Through the engine: a whole job with its items side by side, or one item.

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_proto::job::Lane;
use captionfleet_proto::rows::Row;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::budget::permit;
use super::drain::Drain;
use super::item::{ItemFailure, Mode};
use super::prompt::Plan;
use super::task::{Inferred, Received};
use super::{Failure, Pipeline};
use crate::engine::{CaptionRequest, EngineError, Priority};

/// An item's place in its job, and its rows.
type Numbered = (usize, Result<Vec<Row>, Failure>);

impl Pipeline {
    /// Does all items of a job side by side; `None` if the worker drains and the job must go back.
    pub(super) async fn run_together(
        &self,
        task: Received,
        drain: &Drain,
    ) -> Result<Option<Inferred>, Failure> {
        let budget = self.budgets.of(task.lane);
        // A job that has not begun when the drain starts would only eat into the others' grace period.
        tokio::select! {
            biased;
            place = permit(&budget.pictures) => drop(place),
            () = drain.soft.cancelled() => return Ok(None),
        }
        let plan = self.plan(&task.caption).await?;
        let work = self.rows_of(&task, plan.as_ref(), budget.width);
        let rows = tokio::select! {
            rows = work => rows?,
            () = drain.hard.cancelled() => return Ok(None),
        };
        Ok(Some(Inferred { task, rows, quarantined: false }))
    }

    /// The rows of all items, in item order; the first item that stops the job ends them all.
    async fn rows_of(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        width: usize,
    ) -> Result<Vec<Row>, Failure> {
        // Boxed: the compiler cannot see that a stream of closures borrowing `self` may cross threads.
        let mut items: Vec<BoxFuture<'_, Numbered>> = Vec::new();
        for (at, item) in task.caption.items.iter().enumerate() {
            items.push(self.run_item(task, plan, item, Mode::Together).map(move |rows| (at, rows)).boxed());
        }
        let mut running = futures::stream::iter(items).buffer_unordered(width);
        let mut done = Vec::with_capacity(task.caption.items.len());
        while let Some((at, rows)) = running.next().await {
            done.push((at, rows?));
        }
        done.sort_unstable_by_key(|(at, _)| *at);
        Ok(done.into_iter().flat_map(|(_, rows)| rows).collect())
    }
}

/// What the engine is asked about one picture.
pub(super) fn request(picture: PreparedPicture, plan: &Plan, lane: Lane, mode: Mode) -> CaptionRequest {
    let interactive = lane == Lane::Interactive || mode == Mode::Alone;
    CaptionRequest {
        picture,
        asks: std::sync::Arc::clone(&plan.asks),
        adapter: plan.adapter.clone(),
        embed: plan.embed,
        priority: if interactive { Priority::Interactive } else { Priority::Bulk },
    }
}

/// What an engine error means for the item.
pub(super) fn engine_failure(error: EngineError) -> ItemFailure {
    match error {
        EngineError::Stopped => ItemFailure::Job(Failure::Engine(error)),
        other => ItemFailure::row(other.code(), other.to_string()),
    }
}

/// A failure of a step that held several items: it says nothing about this one yet.
pub(super) fn is_shared(error: &EngineError) -> bool {
    matches!(error, EngineError::Panicked { .. } | EngineError::Model(_))
}
