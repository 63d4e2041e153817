//! One item from its URI to its row, within a deadline.

use std::time::Instant;

use captionfleet_proto::job::{JobItem, Lane};
use captionfleet_proto::rows::Row;
use tracing::Instrument as _;

use super::answers::Asked;
use super::budget::permit;
use super::fetch::Facts;
use super::infer::{Mode, engine_failure, is_shared, request};
use super::item_failure::ItemFailure;
use super::prompt::Plan;
use super::task::Received;
use super::{Failure, Pipeline};
use crate::engine::{CaptionRequest, CaptionResult, EngineError};
use crate::telemetry::{events, spans};

/// The questions of a plan.
pub(super) fn asked<'a>(plan: Result<&'a Plan, &ItemFailure>) -> &'a [Asked] {
    plan.map_or(&[], |plan| &plan.asked)
}

impl Pipeline {
    /// Does one item: one row, or those of a segment. `plan` is the job's, or why none of its items can be done.
    pub(super) async fn run_item(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        item: &JobItem,
        mode: Mode,
    ) -> Result<Vec<Row>, Failure> {
        let span = tracing::info_span!(
            target: spans::TARGET, "item", item.uri = %item.uri, item.frame_ms = item.frame_ms
        );
        self.rows_of_item(task, plan, item, mode).instrument(span).await
    }

    async fn rows_of_item(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        item: &JobItem,
        mode: Mode,
    ) -> Result<Vec<Row>, Failure> {
        let own = plan.as_ref().ok().and_then(|plan| self.plan_of(&task.caption, plan, item));
        let plan = own.as_ref().map_or(plan, Result::as_ref);
        match &item.sample {
            Some(sampling) => self.run_segment(task, plan, item, sampling, mode).await,
            None => self.run_picture(task, plan, item, mode).await.map(|row| vec![row]),
        }
    }

    async fn run_picture(
        &self,
        task: &Received,
        plan: Result<&Plan, &ItemFailure>,
        item: &JobItem,
        mode: Mode,
    ) -> Result<Row, Failure> {
        let mut facts = Facts::planned(item);
        let result = match plan {
            Ok(plan) => self.try_item(task, plan, item, mode, &mut facts).await,
            Err(ItemFailure::Row { code, message }) => Err(ItemFailure::row(code, message.clone())),
            Err(_) => Err(ItemFailure::row("internal", "the prompt cannot be used".to_owned())),
        };
        match result {
            Ok(answer) => Ok(self.ok_row(task, item, facts, answer, asked(plan))),
            Err(ItemFailure::Row { code, message }) => {
                events::item_failed(&task.id, item.uri.as_str(), code, &message);
                Ok(self.failed_row(task, item, facts, code, message))
            }
            Err(ItemFailure::Job(failure)) => Err(failure),
            Err(ItemFailure::Unclear(_)) => {
                let message = "the model failed on this item".to_owned();
                Ok(self.failed_row(task, item, facts, "internal", message))
            }
        }
    }

    async fn try_item(
        &self,
        task: &Received,
        plan: &Plan,
        item: &JobItem,
        mode: Mode,
        facts: &mut Facts,
    ) -> Result<CaptionResult, ItemFailure> {
        let unclear = match mode {
            Mode::Alone => self.attempt(task, plan, item, mode, facts).await,
            Mode::Together => {
                let _place = permit(&self.budgets.of(task.lane).pictures).await;
                let _company = self.isolation.read().await;
                self.attempt(task, plan, item, mode, facts).await
            }
        };
        self.clear(unclear, mode).await
    }

    /// Asks once more where neighbours may be to blame: the answer that a picture gets alone is its own.
    pub(super) async fn clear(
        &self,
        answer: Result<CaptionResult, ItemFailure>,
        mode: Mode,
    ) -> Result<CaptionResult, ItemFailure> {
        let request = match answer {
            Err(ItemFailure::Unclear(request)) => *request,
            clear => return clear,
        };
        let _alone = match mode {
            Mode::Together => Some(self.isolation.write().await),
            Mode::Alone => None,
        };
        self.ask_engine(request).await?.map_err(engine_failure)
    }

    /// Asks for a picture that may have neighbours.
    pub(super) async fn ask(&self, asked: CaptionRequest, lane: Lane) -> Result<CaptionResult, ItemFailure> {
        let answer = self.ask_engine(asked.clone()).await;
        events::paced(&self.metrics, lane, self.budgets.of(lane).finished(self.metrics.device_busy.get()));
        match answer? {
            Ok(answer) => Ok(answer),
            Err(error) if is_shared(&error) => Err(ItemFailure::Unclear(Box::new(asked))),
            Err(error) => Err(engine_failure(error)),
        }
    }

    /// Asks the engine, and waits for as long as the device moves: how many wait there and how fast it is, is no fault of the
    /// item. One that is late because the device hangs is no failed row either: this worker can do nothing any more, and the jobs
    /// are for others.
    async fn ask_engine(
        &self,
        request: CaptionRequest,
    ) -> Result<Result<CaptionResult, EngineError>, ItemFailure> {
        let asked_at = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = self.engine.caption(request) => answer,
            hung = self.engine.hung() => return Err(ItemFailure::Job(Failure::Engine(hung))),
        };
        if let Ok(answer) = &answer {
            spans::inferred(asked_at, &answer.device);
        }
        Ok(answer)
    }

    /// The deadline covers reading and decoding; in the engine it is for every step of the device.
    async fn attempt(
        &self,
        task: &Received,
        plan: &Plan,
        item: &JobItem,
        mode: Mode,
        facts: &mut Facts,
    ) -> Result<CaptionResult, ItemFailure> {
        let _in_flight = self.metrics.item_in_flight();
        let upstream = self.metrics.item_upstream();
        let picture = self.fetch_in_time(item, task.lane, task.last_attempt, facts).await?;
        let asked = request(picture, plan, task.lane, mode);
        let _place = match mode {
            Mode::Together => Some(permit(&self.budgets.of(task.lane).device).await),
            Mode::Alone => None,
        };
        drop(upstream);
        self.ask(asked, task.lane).await
    }
}
