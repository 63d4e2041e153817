//! From bytes to work: what kind of job a message is, whether it belongs here, and whether it is done already.

use std::sync::Arc;

use captionfleet_proto::job::{CaptionJob, Job, JobKind};
use captionfleet_proto::layout;
use captionfleet_proto::outcome::CANCELLED;
use captionfleet_proto::rows::{Projection, TableError, read_part};
use captionfleet_proto::storage::{Storage, StorageErrorKind};
use captionfleet_proto::{codec, rows};
use tracing::Instrument;

use super::drain::Drain;
use super::outcome::{MessageFacts, outcome_of};
use super::source;
use super::task::{Course, HandOver, Received, Suspicion, Verdict};
use super::turn::{MAX_PART_BYTES, Turn, clear_away, remove_traces};
use super::{Failure, Pipeline, Tally};
use crate::engine::EngineError;
use crate::telemetry::events;
use crate::telemetry::spans::{self, KeyValue};

/// A question that was handed out so often and never settled is not begun again: nobody runs it alone, and nothing of it is kept.
/// Once may have been a machine that was lost.
const QUESTION_LIMIT: u64 = 2;

impl Pipeline {
    /// Does what the message asks for.
    pub(super) async fn route(&self, hand_over: &HandOver, drain: &Drain) -> Verdict {
        let job = match codec::decode_job(&hand_over.message.body) {
            Ok(job) => job,
            Err(error) => return Verdict::Failed(Failure::Message(error)),
        };
        let trace_id = hand_over.trace_id(&job);
        let span = tracing::info_span!("job", job.id = %job.id, run.id = %job.run, trace.id = trace_id);
        spans::note(|| {
            [
                KeyValue::new("job.id", job.id.to_string()),
                KeyValue::new("run.id", job.run.to_string()),
                KeyValue::new("job.lane", hand_over.lane.as_str()),
            ]
        });
        match &job.kind {
            JobKind::Search(_) | JobKind::Rerank(_) if hand_over.delivery_count >= QUESTION_LIMIT => {
                self.refuse(&job, hand_over).instrument(span).await
            }
            JobKind::Search(search) => self.answer(&job, search, hand_over).instrument(span).await,
            JobKind::Rerank(rerank) => self.rerank(&job, rerank, hand_over).instrument(span).await,
            JobKind::Caption(caption) => {
                let work = self.caption(&job, caption.clone(), hand_over, drain).instrument(span);
                let done = if job.deadline.is_none() {
                    work.await
                } else if let Some(done) = self.while_awaited(&job, &hand_over.message, work).await {
                    done
                } else {
                    events::question_dropped(&self.metrics, "caption", &job.id);
                    self.forget_begun(&job, hand_over.suspicion).await;
                    return Verdict::Done;
                };
                match done {
                    Ok(verdict) => verdict,
                    // The device is gone, through no fault of the job: another worker shall have it as it came.
                    Err(Failure::Engine(EngineError::Stopped | EngineError::Hung { .. })) => {
                        Verdict::Returned
                    }
                    Err(failure) => Verdict::Failed(failure),
                }
            }
        }
    }

    /// Answers a question over which workers may have ended. Its asker may ask again; it must not go on from worker to worker.
    async fn refuse(&self, job: &Job, hand_over: &HandOver) -> Verdict {
        const CODE: &str = "worker_crash";
        let facts = MessageFacts::of(&hand_over.message);
        let message =
            format!("workers may have ended over this question, {} times", hand_over.delivery_count);
        spans::failed(CODE);
        let took = hand_over.started.elapsed();
        events::question_answered(&self.metrics, facts.kind, &job.id, took, Some((CODE, &message)));
        Tally::add(&self.tally.jobs, 1);
        self.tell_dead(&hand_over.message, &facts, 0, CODE, &message).await;
        Verdict::Done
    }

    /// Nobody waits for the job any more: what earlier hand-overs, or this one, left of it in the archive goes with it.
    async fn forget_begun(&self, job: &Job, suspicion: Suspicion) {
        if suspicion == Suspicion::None {
            return;
        }
        if let Ok(archive) = self.stores.archive(&job.archive).await {
            remove_traces(&*archive, &job.run, &job.id).await;
        }
    }

    /// Whether this worker serves the bundle that the job wants.
    pub(super) fn check_bundle(&self, job: &Job) -> Result<(), Failure> {
        let served = &self.engine.info().bundle;
        match &job.bundle {
            Some(wanted) if wanted != served => {
                Err(Failure::BundleMismatch { wanted: wanted.clone(), served: served.clone() })
            }
            _ => Ok(()),
        }
    }

    async fn caption(
        &self,
        job: &Job,
        caption: CaptionJob,
        hand_over: &HandOver,
        drain: &Drain,
    ) -> Result<Verdict, Failure> {
        self.check_bundle(job)?;
        let turn = Turn::new(hand_over.started, self.options.hold_limit);
        let is_suspected = hand_over.suspicion == Suspicion::Crash;
        let Some(held) = turn.within(self.in_hand.hold(&job.run, &job.id, is_suspected)).await else {
            return Ok(Verdict::TurnOver);
        };
        let archive = self.stores.archive(&job.archive).await.map_err(Failure::Archive)?;
        let max_attempts = self.options.topology.max_attempts();
        let mut task = Received::new(job, caption, Arc::clone(&archive), hand_over, max_attempts);
        if is_suspected && !held.is_suspected {
            // It was in this very process, which lives.
            task.suspicion = Suspicion::Begun;
        }
        match self.caption_task(task, hand_over, turn, drain).await {
            Err(Failure::Archive(error)) if error.is_outage() => {
                self.archive_is_away(&archive, &error);
                Err(Failure::Archive(error))
            }
            Err(Failure::Source { item, source }) => Err(source::failure(&self.stores, item, source).await),
            done => done,
        }
    }

    pub(super) async fn caption_task(
        &self,
        task: Received,
        hand_over: &HandOver,
        turn: Turn,
        drain: &Drain,
    ) -> Result<Verdict, Failure> {
        if self.is_done(&task).await? {
            return self.done_before(task, hand_over).await;
        }
        if self.is_cancelled(&task).await? {
            return Ok(self.drop_cancelled(&task, hand_over).await);
        }
        if task.attempts > 1 {
            there_is(&*task.archive).await?;
        }
        let quarantine = self.quarantine_of(&task).await?;
        spans::past("intake", hand_over.started.elapsed());
        let course = match quarantine {
            Some(marker) => self.run_in_quarantine(task, marker, turn, drain).await?,
            None => self.run_together(task, turn, drain).await?,
        };
        let inferred = match course {
            Course::Whole(inferred) => *inferred,
            Course::Drained => return Ok(Verdict::Returned),
            Course::TurnOver => return Ok(Verdict::TurnOver),
        };
        let settled = self.settle(inferred, turn).await?;
        events::job_done(&self.metrics, &settled.outcome);
        Tally::add(&self.tally.jobs, 1);
        Tally::add(&self.tally.ok, settled.outcome.ok);
        Tally::add(&self.tally.failed, settled.outcome.failed_total());
        Tally::add(&self.tally.skipped, settled.outcome.skipped);
        self.tell(&hand_over.message, &settled.outcome);
        Ok(Verdict::Done)
    }

    async fn is_done(&self, task: &Received) -> Result<bool, Failure> {
        Self::is_there(task, &layout::part(&task.run, &task.id)).await
    }

    /// Whether someone cancelled the run.
    async fn is_cancelled(&self, task: &Received) -> Result<bool, Failure> {
        Self::is_there(task, &layout::run_cancelled(&task.run)).await
    }

    /// A job that nobody wants any more leaves the queue without rows; whoever follows the run is told.
    async fn drop_cancelled(&self, task: &Received, hand_over: &HandOver) -> Verdict {
        let facts = MessageFacts::of(&hand_over.message);
        events::job_cancelled(&self.metrics, &facts.id);
        clear_away(task).await;
        self.tell_dead(&hand_over.message, &facts, task.attempts, CANCELLED, "the run was cancelled").await;
        Verdict::Done
    }

    async fn is_there(task: &Received, key: &str) -> Result<bool, Failure> {
        match task.archive.head(key).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                // S3 answers 403 for a missing object to those who may not list; writing will show what is allowed.
                StorageErrorKind::NotFound | StorageErrorKind::PermissionDenied => Ok(false),
                _ => Err(Failure::Archive(error)),
            },
        }
    }

    /// Tells what an existing part holds: the notice of whoever wrote it may have been lost with its writer.
    async fn done_before(&self, task: Received, hand_over: &HandOver) -> Result<Verdict, Failure> {
        let part = layout::part(&task.run, &task.id);
        let object = task.archive.get(&part, MAX_PART_BYTES).await.map_err(Failure::Archive)?;
        let read = tokio::task::spawn_blocking(move || read_part(object.bytes, Projection::WithoutEmbedding));
        let rows: Vec<rows::Row> = match read.await.map_err(|error| Failure::Panicked(error.to_string()))? {
            Ok(rows) => rows,
            // It is done; what it came to is told by the part itself.
            Err(TableError::UnknownVersion(version)) => {
                events::part_of_another_version(&task.run, &task.id, &version);
                return Ok(Verdict::Done);
            }
            Err(source) => return Err(Failure::Part { part, source }),
        };
        let outcome = outcome_of(&task, &rows, part, &self.options.worker_name, true);
        clear_away(&task).await;
        events::job_found_done(&self.metrics, &outcome);
        Tally::add(&self.tally.jobs, 1);
        self.tell(&hand_over.message, &outcome);
        Ok(Verdict::Done)
    }
}

/// A look at one object cannot tell a bucket that is missing from one that is empty. A job that failed before looks again before
/// everything is inferred once more for a part that nobody takes.
async fn there_is(archive: &dyn Storage) -> Result<(), Failure> {
    match archive.check().await {
        Err(error) if error.kind() == StorageErrorKind::NoSuchBucket => Err(Failure::Archive(error)),
        // Who may write need not be allowed to list, and whatever else is wrong shows when the part is written.
        _ => Ok(()),
    }
}
