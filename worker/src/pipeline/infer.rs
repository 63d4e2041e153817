//! Through the engine: a whole job with its items side by side, or one item.

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_proto::job::Lane;
use captionfleet_proto::rows::Row;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::budget::permit;
use super::drain::Drain;
use super::item_failure::ItemFailure;
use super::prompt::Plan;
use super::task::{Course, Inferred, Received};
use super::turn::{DoneItems, Turn};
use super::{Failure, Pipeline};
use crate::engine::{CaptionRequest, EngineError, Priority};

/// In whose company an item runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// With as many others as the budgets allow.
    Together,
    /// As the only one in this process; the caller holds the isolation lock.
    Alone,
}

/// An item's place in its job, and its rows.
type Numbered = (usize, Result<Vec<Row>, Failure>);

impl Pipeline {
    /// Does all items of a job side by side, those that no earlier turn has done.
    pub(super) async fn run_together(
        &self,
        task: Received,
        turn: Turn,
        drain: &Drain,
    ) -> Result<Course, Failure> {
        let budget = self.budgets.of(task.lane);
        // A job that has not begun when the drain starts would only eat into the others' grace period.
        tokio::select! {
            biased;
            place = permit(&budget.pictures) => drop(place),
            () = drain.soft.cancelled() => return Ok(Course::Drained),
            () = turn.over() => return Ok(Course::TurnOver),
        }
        let mut done = self.pick_up(&task).await?;
        let plan = self.plan(&task.caption).await?;
        let _last_words = self.words_of_company(&task);
        let work = self.do_the_rest(&task, plan.as_ref(), budget.width, turn, &mut done);
        let ended = tokio::select! {
            is_whole = work => Some(is_whole),
            () = drain.hard.cancelled() => None,
        };
        match ended {
            Some(Ok(true)) => {
                let rows = done.into_rows();
                Ok(Course::Whole(Box::new(Inferred { task, rows })))
            }
            Some(Ok(false)) => {
                self.put_down(&task, done).await?;
                Ok(Course::TurnOver)
            }
            Some(Err(failure)) => {
                self.keep(&task, done).await;
                Err(failure)
            }
            None => {
                self.keep(&task, done).await;
                Ok(Course::Drained)
            }
        }
    }

    /// Does the items that are not done; the first one that stops the job ends them all. False if the turn ends before.
    async fn do_the_rest(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        width: usize,
        turn: Turn,
        done: &mut DoneItems,
    ) -> Result<bool, Failure> {
        // Boxed: the compiler cannot see that a stream of closures borrowing `self` may cross threads.
        let mut items: Vec<BoxFuture<'_, Numbered>> = Vec::new();
        let is_done = done.which(task.caption.items.len());
        for (at, item) in task.caption.items.iter().enumerate().filter(|(at, _)| !is_done[*at]) {
            items.push(self.run_item(task, plan, item, Mode::Together).map(move |rows| (at, rows)).boxed());
        }
        let mut running = futures::stream::iter(items).buffer_unordered(width);
        loop {
            let next = tokio::select! {
                next = running.next() => next,
                () = turn.over(), if done.has_new() => return Ok(false),
            };
            let Some((at, rows)) = next else { return Ok(true) };
            done.add(at, rows?);
        }
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
    error.is_failed_step()
}
