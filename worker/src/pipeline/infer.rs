//! Through the engine: a whole job with its items side by side, or one item.

use captionfleet_model::preprocess::PreparedPicture;
use captionfleet_proto::job::Lane;
use futures::{FutureExt, StreamExt};

use super::budget::permit;
use super::drain::Drain;
use super::item::{ItemFailure, Mode};
use super::prompt::Plan;
use super::task::{Inferred, Received};
use super::{Failure, Pipeline};
use crate::engine::{CaptionRequest, EngineError, Priority};

impl Pipeline {
    /// Does all items of a job side by side; `None` if the worker drains and the job must go back.
    pub(super) async fn run_together(&self, task: Received, drain: &Drain) -> Result<Option<Inferred>, Failure> {
        let budget = self.budgets.of(task.lane);
        // A job that has not begun when the drain starts would only eat into the others' grace period.
        tokio::select! {
            biased;
            place = permit(&budget.pictures) => drop(place),
            () = drain.soft.cancelled() => return Ok(None),
        }
        let plan = self.plan(&task.caption);
        let work = async {
            let mut running = futures::stream::iter(task.caption.items.iter().enumerate())
                .map(|(at, item)| {
                    let (task, plan) = (&task, &plan);
                    let row = self.run_item(task, plan.as_ref(), item, Mode::Together);
                    row.map(move |row| (at, row)).boxed()
                })
                .buffer_unordered(budget.width);
            let mut rows = Vec::with_capacity(task.caption.items.len());
            while let Some((at, row)) = running.next().await {
                rows.push((at, row?));
            }
            rows.sort_unstable_by_key(|(at, _)| *at);
            Ok(rows.into_iter().map(|(_, row)| row).collect())
        };
        let rows = tokio::select! {
            rows = work => rows?,
            () = drain.hard.cancelled() => return Ok(None),
        };
        Ok(Some(Inferred { task, rows, quarantined: false }))
    }

    /// What the engine is asked about one picture.
    pub(super) fn request(&self, picture: PreparedPicture, plan: &Plan, lane: Lane, mode: Mode) -> CaptionRequest {
        let interactive = lane == Lane::Interactive || mode == Mode::Alone;
        CaptionRequest {
            picture,
            prompt: std::sync::Arc::clone(&plan.prompt),
            sampling: plan.sampling.clone(),
            embed: plan.embed,
            priority: if interactive { Priority::Interactive } else { Priority::Bulk },
        }
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
