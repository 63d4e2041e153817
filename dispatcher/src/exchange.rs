//! One question to the workers, one answer: a job on the interactive lane, and a mailbox for what comes of it.

use anyhow::Context as _;
use captionfleet_proto::broker::{Broker, Message, Topology};
use captionfleet_proto::codec;
use captionfleet_proto::job::{Job, JobId, Lane};
use captionfleet_worker::telemetry::spans;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How much later than the asker's patience ends a worker drops the job: clocks of different machines differ. Mostly the
/// mailbox is gone before.
const CLOCKS_DIFFER: Duration = Duration::from_mins(1);

/// Publishes `job` and waits at most `patience` for a message that `read` takes for its answer, or until `gone` says that
/// nobody wants it any more. Either way the mailbox is closed, and workers drop questions without a mailbox: call this to
/// its end rather than dropping it.
pub async fn exchange<T>(
    broker: &dyn Broker,
    topology: &Topology,
    job: &Job,
    patience: Duration,
    gone: &CancellationToken,
    read: impl Fn(&[u8]) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let span = tracing::info_span!(
        target: spans::TARGET, "ask", otel.kind = "producer", messaging.message.id = %job.id
    );
    ask(broker, topology, job, patience, gone, read).instrument(span).await
}

async fn ask<T>(
    broker: &dyn Broker,
    topology: &Topology,
    job: &Job,
    patience: Duration,
    gone: &CancellationToken,
    read: impl Fn(&[u8]) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let mailbox = broker.open_mailbox(&format!("search-{}", job.id)).await?;
    let deadline = Timestamp::now().checked_add(patience.saturating_add(CLOCKS_DIFFER)).ok();
    let job = &Job { deadline, ..job.clone() };
    let answered = async {
        let mut replies = broker.consume(&mailbox, 1).await?;
        let mut message = Message::new(job.id.as_str(), codec::encode_job(job)?);
        message.correlation_id = Some(job.id.to_string());
        message.reply_to = Some(mailbox.clone());
        message.trace = spans::outgoing();
        broker.publish(&topology.lane_queue(Lane::Interactive), message).await?;
        loop {
            let delivery = replies.next().await?.context("the mailbox of this question was closed")?;
            let answer = read(&delivery.message.body);
            delivery.ack().await?;
            if let Some(answer) = answer.context("the worker's answer cannot be read")? {
                return anyhow::Ok(answer);
            }
        }
    };
    let answer = tokio::select! {
        answer = tokio::time::timeout(patience, answered) => Some(answer),
        () = gone.cancelled() => None,
    };
    if let Err(error) = broker.close_mailbox(&mailbox).await {
        tracing::debug!(%error, "the mailbox stays until it expires");
    }
    match answer {
        None => anyhow::bail!("stopped"),
        Some(Ok(answer)) => answer,
        Some(Err(_)) => Err(no_answer(broker, topology, patience).await),
    }
}

/// Why nobody answered, as far as the queue tells.
async fn no_answer(broker: &dyn Broker, topology: &Topology, patience: Duration) -> anyhow::Error {
    let queue = topology.lane_queue(Lane::Interactive);
    let seconds = patience.as_secs();
    match broker.depth(&queue).await {
        Ok(depth) if depth.consumers == 0 => anyhow::anyhow!(
            "no worker consumes {queue} at {}: start `worker run` with the same --broker and --queue-prefix",
            broker.describe()
        ),
        _ => anyhow::anyhow!(
            "no worker answered within {seconds} s; they may be starting or serve another bundle: wait longer with \
             --timeout"
        ),
    }
}

/// An id that no other question has.
pub fn new_id() -> anyhow::Result<JobId> {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let mut digest = Sha256::new();
    digest.update(Timestamp::now().as_nanosecond().to_le_bytes());
    digest.update(std::process::id().to_le_bytes());
    digest.update(ASKED.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Ok(JobId::new(hex::encode(&digest.finalize()[..10]))?)
}
