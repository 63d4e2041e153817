//! Handing jobs to the broker, each until it is confirmed. Decides nothing.

use crate::plan::PlannedJob;
use anyhow::Context as _;
use captionfleet_proto::broker::{Broker, Message, QueueName};
use captionfleet_proto::codec;
use captionfleet_proto::job::{CaptionJob, Job};
use captionfleet_proto::manifest::RunManifest;
use captionfleet_proto::uri::ArchiveUri;
use futures::{StreamExt as _, TryStreamExt as _};

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

/// Publishes the given jobs of one run.
pub async fn publish(
    destination: &Destination<'_>,
    run: &RunManifest,
    jobs: &[PlannedJob],
    confirmed: &(dyn Fn() + Sync),
) -> anyhow::Result<()> {
    futures::stream::iter(jobs)
        .map(|job| async move {
            let message = message(destination, run, job)?;
            destination.broker.publish(&destination.queue, message).await?;
            confirmed();
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
        .with_context(|| format!("publish run {}", run.run))
}

fn message(
    destination: &Destination<'_>,
    run: &RunManifest,
    planned: &PlannedJob,
) -> anyhow::Result<Message> {
    let caption = CaptionJob {
        items: planned.items.clone(),
        prompt: run.prompt.clone(),
        max_tokens: run.max_tokens,
        embed: run.embed,
        thumbnails: run.thumbnails.unwrap_or(false),
    };
    let mut job = Job::caption(planned.id.clone(), run.run.clone(), destination.archive.clone(), caption);
    job.bundle.clone_from(&run.bundle);
    job.trace_id = run.run.to_string();
    let body = codec::encode_job(&job).with_context(|| format!("write job {}", planned.id))?;
    let mut message = Message::new(planned.id.as_str(), body);
    message.correlation_id = Some(run.run.to_string());
    message.reply_to.clone_from(&destination.reply_to);
    Ok(message)
}
