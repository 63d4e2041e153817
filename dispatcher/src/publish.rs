//! Handing jobs to the broker, each until it is confirmed. Decides nothing but how many are out at a time ([`Gate`]).

mod again;
mod gate;

pub use again::again;
pub use gate::Gate;

use crate::planned_job::PlannedJob;
use anyhow::Context as _;
use captionfleet_proto::broker::{Broker, BrokerErrorKind, Message, QueueName};
use captionfleet_proto::codec;
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobKind};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::uri::ArchiveUri;
use captionfleet_worker::telemetry::spans;
use futures::{StreamExt as _, TryStreamExt as _};
use tracing::Instrument as _;

/// Jobs on their way to the broker at once; the broker's own window bounds them further.
const AT_ONCE: usize = 256;

/// Where jobs go.
pub struct Destination<'a> {
    /// The broker.
    pub broker: &'a dyn Broker,
    /// The lane's queue.
    pub queue: QueueName,
    /// Where outcomes are sent; `None` if nobody waits for them.
    pub reply_to: Option<QueueName>,
    /// Where the parts go.
    pub archive: ArchiveUri,
}

/// Who is told how the publishing goes.
pub trait Observer: Sync {
    /// The broker has one more job, whose message has so many bytes.
    fn confirmed(&self, bytes: usize);
    /// The broker has returned these jobs, because there is no such queue; they are published again.
    fn returned(&self, jobs: &[JobId]);
}

/// Publishes the given jobs of one run, and lets go of each as it is confirmed.
///
/// Someone may remove the queue meanwhile: what comes back is published once more, to the queue declared again.
pub async fn publish(
    destination: &Destination<'_>,
    run: &RunManifest,
    jobs: Vec<PlannedJob>,
    gate: &Gate,
    observer: &dyn Observer,
) -> anyhow::Result<()> {
    let context = || format!("publish run {}", run.run);
    let returned = send(destination, run, jobs, gate, observer).await.with_context(context)?;
    if returned.is_empty() {
        return Ok(());
    }
    let ids: Vec<JobId> = returned.iter().map(|job| job.id.clone()).collect();
    observer.returned(&ids);
    destination.broker.declare().await.with_context(context)?;
    let returned = send(destination, run, returned, &Gate::open(), observer).await.with_context(context)?;
    if let Some(job) = returned.first() {
        anyhow::bail!(
            "publish run {}: {} jobs came back twice, job {} the first: something removes queue {} again and again",
            run.run,
            returned.len(),
            job.id,
            destination.queue
        );
    }
    Ok(())
}

/// Makes sure that the jobs of a run can be messages, before anything is written down that could not be done. The largest
/// stands for all.
pub fn check(archive: &ArchiveUri, run: &RunManifest, jobs: &[PlannedJob]) -> anyhow::Result<()> {
    let size = |job: &&PlannedJob| -> usize {
        job.items.iter().map(|item| item.uri.as_str().len() + item.source().as_str().len()).sum()
    };
    let Some(largest) = jobs.iter().max_by_key(size) else { return Ok(()) };
    codec::encode_job(&job(archive, run, largest.clone())).with_context(|| {
        format!(
            "job {} cannot be a message: ask fewer or shorter questions in one run, or take a smaller --job-size",
            largest.id
        )
    })?;
    Ok(())
}

/// Publishes jobs side by side; those that were returned.
async fn send(
    destination: &Destination<'_>,
    run: &RunManifest,
    jobs: Vec<PlannedJob>,
    gate: &Gate,
    observer: &dyn Observer,
) -> anyhow::Result<Vec<PlannedJob>> {
    let returned: Vec<Option<PlannedJob>> = futures::stream::iter(jobs)
        .map(|planned| async move {
            gate.pass().await;
            let span = tracing::info_span!(
                target: spans::TARGET,
                "publish",
                otel.kind = "producer",
                messaging.destination.name = %destination.queue,
                messaging.message.id = %planned.id,
                run.id = %run.run,
                job.items = planned.items.len(),
            );
            let sending = async {
                let begun = planned.begun;
                let job = job(&destination.archive, run, planned);
                let message = message(destination, run, &job, begun)?;
                let bytes = message.body.len();
                match destination.broker.publish(&destination.queue, message).await {
                    Ok(()) => observer.confirmed(bytes),
                    Err(error) if error.kind() == BrokerErrorKind::Unroutable => {
                        return Ok(planned_again(job, begun));
                    }
                    Err(error) => return Err(anyhow::Error::from(error)),
                }
                anyhow::Ok(None)
            };
            sending.instrument(span).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(returned.into_iter().flatten().collect())
}

fn job(archive: &ArchiveUri, run: &RunManifest, planned: PlannedJob) -> Job {
    let caption = CaptionJob {
        items: planned.items,
        prompt: run.prompt.clone(),
        max_tokens: run.max_tokens,
        adapter: run.adapter.clone(),
        embed: run.embed,
        thumbnails: run.thumbnails.unwrap_or(false),
    };
    let mut job = Job::caption(planned.id, run.run.clone(), archive.clone(), caption);
    job.bundle.clone_from(&run.bundle);
    job.trace_id = spans::trace_id().unwrap_or_else(|| run.run.to_string());
    job
}

/// The plan that `job` was made of.
fn planned_again(job: Job, begun: bool) -> Option<PlannedJob> {
    let JobKind::Caption(caption) = job.kind else { return None };
    Some(PlannedJob { id: job.id, items: caption.items, begun })
}

fn message(
    destination: &Destination<'_>,
    run: &RunManifest,
    job: &Job,
    begun: bool,
) -> anyhow::Result<Message> {
    let body = codec::encode_job(job).with_context(|| format!("write job {}", job.id))?;
    let mut message = Message::new(job.id.as_str(), body);
    message.correlation_id = Some(run.run.to_string());
    message.reply_to.clone_from(&destination.reply_to);
    message.trace = spans::outgoing();
    // Nobody looks in the archive for what was begun of a job that says it is new.
    message.turns = begun.into();
    Ok(message)
}
