//! One submission as those see it who ask for it.

use crate::exit;
use crate::ledger::Watcher;
use crate::plan::Plan;
use crate::publish::Gate;
use crate::report::Report;
use crate::scale::price::OpenWork;
use crate::serve::members::Members;
use captionfleet_proto::job::RunId;
use captionfleet_proto::outcome::JobOutcome;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Jobs that are out at a time, at least.
const NARROW: usize = 8;
/// Jobs that are out at a time for each consumer: those that it has taken ahead, and as many that wait for it.
const FOR_EACH: usize = 4;
/// Remarks that are kept.
const REMARKS: usize = 20;

/// What a submission is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for its turn, lists its sources and compares them with the archive.
    Planning,
    /// It copies pictures and writes its run down.
    Beginning,
    /// Its jobs are handed out and followed.
    Working,
    /// Every job has settled or was given up; there may have been none.
    Ended,
    /// It was stopped before that.
    Stopped,
    /// It failed; the error says why.
    Failed,
}

impl Phase {
    /// Whether there is more to come.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Planning | Self::Beginning | Self::Working)
    }
}

/// How far a submission is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Stage {
    /// What it is about to do.
    pub phase: Phase,
    /// Its runs, once they are known.
    pub runs: Vec<String>,
    /// Items of its sources.
    pub items: u64,
    /// Items that need nothing.
    pub already_done: u64,
    /// Items that failed before and are not tried again.
    pub already_failed: u64,
    /// Jobs to do.
    pub jobs: u64,
    /// Jobs that were given up, with the reasons.
    pub given_up: Vec<GivenUp>,
    /// What people should know.
    pub remarks: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GivenUp {
    /// The job.
    pub job: String,
    /// Its run.
    pub run: String,
    /// Why.
    pub reason: String,
}

/// One submission.
pub struct Submitted {
    /// Its name.
    pub id: String,
    /// When it was taken.
    pub submitted_at: Timestamp,
    stop: CancellationToken,
    gate: Arc<Gate>,
    members: Arc<Members>,
    stage: watch::Sender<Stage>,
    /// Jobs that workers must do and have not done, handed out or not.
    open: Mutex<OpenWork>,
    runs: Mutex<Vec<RunId>>,
    cancelled: Mutex<HashSet<RunId>>,
}

impl Submitted {
    /// `runs` are those that it is about before anything is planned.
    pub(super) fn new(id: String, runs: Vec<RunId>, stop: CancellationToken, members: Arc<Members>) -> Self {
        let stage = Stage {
            phase: Phase::Planning,
            runs: runs.iter().map(ToString::to_string).collect(),
            items: 0,
            already_done: 0,
            already_failed: 0,
            jobs: 0,
            given_up: Vec::new(),
            remarks: Vec::new(),
            error: None,
        };
        Self {
            id,
            submitted_at: Timestamp::now(),
            stop,
            gate: Arc::new(Gate::narrow(NARROW)),
            members,
            stage: watch::Sender::new(stage),
            open: Mutex::default(),
            runs: Mutex::new(runs),
            cancelled: Mutex::default(),
        }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Waits until its runs are in the archive, or it has ended before: then the stage says why.
    pub async fn begun_or_ended(&self) {
        let mut stage = self.stage.subscribe();
        // The sender lives as long as `self`.
        drop(stage.wait_for(|stage| !matches!(stage.phase, Phase::Planning | Phase::Beginning)).await);
    }

    /// Waits until it has ended, one way or the other.
    pub(super) async fn ended(&self) {
        let mut stage = self.stage.subscribe();
        // The sender lives as long as `self`.
        drop(stage.wait_for(|stage| !stage.phase.is_open()).await);
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage.borrow().phase.is_open()
    }

    /// What workers shall do now: nothing while it is paused.
    pub(super) fn open_work(&self) -> OpenWork {
        if !self.is_open() || self.is_paused() {
            return OpenWork::default();
        }
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs of [`Self::open_work`] that lie in queues or in workers' hands.
    pub(super) fn jobs_out(&self) -> u64 {
        if self.is_open() && !self.is_paused() { self.gate.out() } else { 0 }
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn runs(&self) -> Vec<RunId> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is open and the run is one of its own.
    pub(super) fn works_on(&self, run: &RunId) -> bool {
        self.is_open() && self.runs.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }

    /// Whether its jobs are held back.
    pub fn is_paused(&self) -> bool {
        self.gate.is_closed()
    }

    /// Stops when all of its runs are cancelled. Until then the workers drop the jobs of those that are.
    pub(super) fn cancel(&self, run: &RunId) {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        cancelled.insert(run.clone());
        if self.runs().iter().all(|run| cancelled.contains(run)) {
            self.stop.cancel();
        }
    }

    pub(super) fn planned(&self, plan: &Plan) {
        let continued = plan.continued.iter().map(|run| run.manifest.run.clone());
        let runs: Vec<RunId> = continued.chain(plan.new_run.iter().map(|run| run.run.clone())).collect();
        self.stage.send_modify(|stage| {
            stage.phase = Phase::Beginning;
            stage.items = plan.listed;
            stage.already_done = plan.already_done;
            stage.already_failed = plan.already_failed;
            stage.jobs = plan.jobs();
            stage.runs = runs.iter().map(ToString::to_string).collect();
        });
        *self.runs.lock().unwrap_or_else(PoisonError::into_inner) = runs;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = plan.open_work();
    }

    pub(super) fn begun(&self) {
        self.stage.send_modify(|stage| stage.phase = Phase::Working);
    }

    pub(super) fn reported(&self, report: &Report) {
        self.stage.send_modify(|stage| {
            let given_up = report.dead_jobs.iter().map(|dead| GivenUp {
                job: dead.job.to_string(),
                run: dead.run.to_string(),
                reason: dead.reason.clone(),
            });
            stage.given_up = given_up.collect();
        });
    }

    pub(super) fn end(&self, outcome: anyhow::Result<()>) {
        self.stage.send_modify(|stage| match outcome {
            Ok(()) if self.stop.is_cancelled() => stage.phase = Phase::Stopped,
            Ok(()) => stage.phase = Phase::Ended,
            Err(error) => {
                stage.phase = Phase::Failed;
                stage.error = Some(exit::line(&error));
            }
        });
    }
}

impl Watcher for Submitted {
    fn told(&self, outcome: &JobOutcome) {
        self.members.told(outcome);
    }

    fn settled(&self, open: OpenWork) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        self.gate.settled();
    }

    fn consumers(&self, count: u32) {
        self.gate.widen((count as usize).saturating_mul(FOR_EACH));
    }

    fn remark(&self, text: &str) {
        self.stage.send_modify(|stage| {
            if stage.remarks.len() < REMARKS {
                stage.remarks.push(text.to_owned());
            }
        });
    }
}
