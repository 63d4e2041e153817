//! What happens to jobs and items: each event owns its log line, its counters, and its span if it has an end of its own.

use std::error::Error;
use std::time::Duration;

use captionfleet_proto::broker::QueueName;
use captionfleet_proto::chain;
use captionfleet_proto::job::{JobId, Lane, RunId};
use captionfleet_proto::outcome::JobOutcome;

use super::{Metrics, spans};
use crate::engine::EngineInfo;

/// The model has said its golden tokens, and its memory is shared out.
pub fn model_ready(info: &EngineInfo) {
    let memory = &info.memory;
    tracing::info!(
        bundle.id = info.bundle,
        device = info.device,
        slots = info.slots,
        slot.tokens = info.max_len,
        batch.vision = memory.vision.rows,
        batch.prefill = memory.prefill.rows,
        memory.limit_bytes = memory.limit,
        memory.held_bytes = memory.held,
        memory.vision_bytes = memory.vision.bytes,
        memory.prefill_bytes = memory.prefill.bytes,
        memory.slots_bytes = memory.all_slots(),
        "model ready"
    );
    tracing::info!("how its memory is shared out\n{memory}");
}

/// Something is ready that is no model.
pub fn null_engine_ready(info: &EngineInfo) {
    tracing::warn!(
        bundle.id = info.bundle,
        device = info.device,
        slots = info.slots,
        "the null engine serves, for load tests only: no picture is looked at, captions are not captions"
    );
}

/// So many pictures of the lane are kept on their way to the device from now on.
pub fn paced(metrics: &Metrics, lane: Lane, ahead: usize) {
    if lane.is_bulk() {
        metrics.look_ahead.set(ahead as i64);
    }
}

/// The stages outside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostStage {
    /// Reading the bytes.
    Fetch,
    /// From bytes to the network's input size.
    ImageDecode,
    /// A segment of a video, from its first frame to its last, the engine's waits included.
    VideoDecode,
    /// Making the part and storing it.
    Write,
}

/// A stage outside the device took `elapsed`.
pub fn stage(metrics: &Metrics, stage: HostStage, elapsed: Duration) {
    let label = match stage {
        HostStage::Fetch => "fetch",
        HostStage::ImageDecode => "image_decode",
        HostStage::VideoDecode => "video_decode",
        HostStage::Write => "write",
    };
    metrics.stage_seconds.with_label_values(&[label]).observe(elapsed.as_secs_f64());
    spans::past(label, elapsed);
}

/// A caption job is settled: its part is durable.
pub fn job_done(metrics: &Metrics, outcome: &JobOutcome) {
    metrics.jobs.with_label_values(&["caption", "done"]).inc();
    metrics.job_seconds.with_label_values(&["caption"]).observe(outcome.seconds);
    metrics.items.with_label_values(&["ok", ""]).inc_by(outcome.ok);
    if let Some(frames) = outcome.frames {
        metrics.frames.with_label_values(&["kept"]).inc_by(frames.kept);
        metrics.frames.with_label_values(&["dropped"]).inc_by(frames.dropped());
    }
    for (code, count) in &outcome.failed {
        metrics.items.with_label_values(&["failed", code]).inc_by(*count);
    }
    tracing::info!(
        job.id = %outcome.job, run.id = %outcome.run, items.ok = outcome.ok, items.failed = outcome.failed_total(),
        job.attempts = outcome.attempts, job.seconds = outcome.seconds,
        "job settled"
    );
}

/// A caption job's part was there already; its rows were counted by whoever wrote them.
pub fn job_found_done(metrics: &Metrics, outcome: &JobOutcome) {
    metrics.jobs.with_label_values(&["caption", "already_done"]).inc();
    tracing::info!(job.id = %outcome.job, run.id = %outcome.run, "job was done before, nothing is inferred");
}

/// A caption job's part was there already, and a later version of this program wrote it.
pub fn part_of_another_version(run: &RunId, job: &JobId, version: &str) {
    tracing::info!(job.id = %job, run.id = %run, part.version = version, "job was done before, by a later version");
}

/// A caption job of a cancelled run left the queue without rows.
pub fn job_cancelled(metrics: &Metrics, job: &str) {
    metrics.jobs.with_label_values(&["caption", "cancelled"]).inc();
    tracing::info!(job.id = job, "the run was cancelled, its job is dropped");
}

/// An item got a failed row.
pub fn item_failed(job: &JobId, item: &str, code: &str, message: &str) {
    tracing::info!(job.id = %job, item.uri = item, error.code = code, error.message = message, "item failed");
    spans::failed(code);
}

/// A job that someone waited for left the queue unanswered, because whoever asked has left.
pub fn question_dropped(metrics: &Metrics, kind: &str, job: &JobId) {
    metrics.jobs.with_label_values(&[kind, "cancelled"]).inc();
    tracing::info!(job.id = %job, kind, "nobody waits for this answer any more, the job is dropped");
}

/// A search or a re-ranking was answered, so long after it was delivered.
pub fn question_answered(
    metrics: &Metrics,
    kind: &str,
    job: &JobId,
    took: Duration,
    failure: Option<(&str, &str)>,
) {
    metrics.job_seconds.with_label_values(&[kind]).observe(took.as_secs_f64());
    match failure {
        None => {
            metrics.jobs.with_label_values(&[kind, "done"]).inc();
            tracing::debug!(job.id = %job, kind, "answered");
        }
        Some((code, message)) => {
            metrics.jobs.with_label_values(&[kind, "failed"]).inc();
            // The asker is told, and mostly it is the query that is at fault.
            tracing::info!(job.id = %job, kind, error.code = code, error.message = message, "not answered");
        }
    }
}

/// A job goes to a delayed-retry queue.
pub fn job_retried(metrics: &Metrics, kind: &str, id: &str, reason: &str, chain: &str, queue: &QueueName) {
    metrics.jobs.with_label_values(&[kind, "retried"]).inc();
    metrics.retries.with_label_values(&[reason]).inc();
    tracing::warn!(job.id = id, error.code = reason, error.chain = chain, %queue, "job failed for now, it will be retried");
}

/// A job is given up.
pub fn job_dead(metrics: &Metrics, kind: &str, id: &str, reason: &str, chain: &str) {
    metrics.jobs.with_label_values(&[kind, "dead"]).inc();
    metrics.dead_letters.with_label_values(&[reason]).inc();
    tracing::error!(
        job.id = id,
        error.code = reason,
        error.chain = chain,
        "job given up, it is a dead letter now"
    );
}

/// A job goes back to its queue because this worker drains.
pub fn job_returned(metrics: &Metrics, kind: &str, id: &str) {
    metrics.jobs.with_label_values(&[kind, "returned"]).inc();
    tracing::info!(job.id = id, "job returned to its queue");
}

/// A job whose turn was over goes to the end of its queue.
pub fn turn_over(metrics: &Metrics, kind: &str, id: &str) {
    metrics.jobs.with_label_values(&[kind, "turn_over"]).inc();
    tracing::info!(job.id = id, "job was held long enough, it goes to the end of its queue");
}

/// What is done of a job was kept.
pub fn put_down(run: &RunId, job: &JobId, done: usize, items: usize) {
    tracing::info!(job.id = %job, run.id = %run, items.done = done, items.all = items, "what is done of the job is kept");
}

/// The broker refuses the queues that jobs come from; the worker asks again.
pub fn queues_refused(reason: &str) {
    tracing::error!(reason, "the broker refuses the queues, the worker waits until that is mended");
}

/// A delivery could not be settled; the broker will hand it out again.
pub fn settle_failed(id: &str, error: &(dyn Error + 'static)) {
    tracing::warn!(job.id = id, error.chain = %chain(error), "delivery could not be settled, the broker keeps it");
}

/// A delivery could not be settled before the worker ended; the broker will hand it out again.
pub fn settle_given_up(id: &str) {
    tracing::warn!(job.id = id, "the worker ends before its delivery is settled, the broker keeps it");
}

/// A panic was contained.
pub fn panicked(metrics: &Metrics, id: &str, message: &str) {
    metrics.panics.inc();
    tracing::error!(job.id = id, panic = message, "panic contained");
}

/// A job is run item by item.
pub fn quarantine_started(metrics: &Metrics, run: &RunId, job: &JobId, condemned: usize) {
    metrics.quarantined.inc();
    tracing::warn!(
        job.id = %job, run.id = %run, items.condemned = condemned,
        "a worker may have died on this job, it is run item by item"
    );
}

/// What was kept of a job for its next turn could not be removed; harmless, so only told.
pub fn unfinished_left(job: &JobId, error: &(dyn Error + 'static)) {
    tracing::warn!(job.id = %job, error.chain = %chain(error), "what was kept of the job could not be removed");
}

/// The rows so far of a job that ended before its time could not be kept: they are made again.
pub fn rows_lost(job: &JobId, error: &(dyn Error + 'static)) {
    tracing::warn!(job.id = %job, error.chain = %chain(error), "the job's rows so far could not be kept");
}

/// The quarantine marker could not be cleared or deleted; harmless, so only told.
pub fn marker_left(job: &JobId, error: &(dyn Error + 'static)) {
    tracing::warn!(job.id = %job, error.chain = %chain(error), "quarantine marker could not be removed");
}

/// The process dies and could not say over which item; a later life will find out.
pub fn last_words_lost(marker: &str, error: &(dyn Error + 'static)) {
    tracing::error!(object = marker, error.chain = %chain(error), "the dying process could not say over which item");
}

/// An outcome or reply did not reach its mailbox.
pub fn notice_lost(id: &str, queue: &QueueName, error: &(dyn Error + 'static)) {
    tracing::warn!(job.id = id, %queue, error.chain = %chain(error), "outcome could not be sent");
}

/// A lane cannot be consumed now.
pub fn consume_failed(queue: &QueueName, error: &(dyn Error + 'static)) {
    tracing::warn!(%queue, error.chain = %chain(error), "queue cannot be consumed, trying again");
}

/// The storage failed once more; `what` is tried again soon.
pub fn storage_retry(what: &str, error: &(dyn Error + 'static)) {
    tracing::debug!(object = what, error.chain = %chain(error), "storage failed, trying again");
}

/// The worker stops taking jobs.
pub fn drain_started(in_hand: i64, grace: Duration) {
    tracing::info!(jobs.in_hand = in_hand, grace.seconds = grace.as_secs_f64(), "draining");
}

/// The worker ends, and its device is still at a step.
pub fn device_left(patience: Duration) {
    tracing::warn!(
        seconds = patience.as_secs(),
        "the device has not ended its last step: it is slow, or it hangs; nobody waits for it any more"
    );
}
