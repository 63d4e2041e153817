//! One question to the workers, one answer: a job on the interactive lane, and a mailbox for what comes of it.
//!
//! A mailbox is a replicated queue, and a broker takes longer to make and remove one than a worker takes to embed a text. So the
//! mailbox of a question that was answered is kept for the next.

#[cfg(test)]
mod tests;

use anyhow::Context as _;
use captionfleet_proto::broker::{Broker, BrokerErrorKind, Consumer, Message, QueueName, Topology};
use captionfleet_proto::codec::{self, DecodeError};
use captionfleet_proto::job::{Job, JobId, Lane};
use captionfleet_worker::telemetry::spans;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// How much later than the asker's patience ends a worker drops the job: clocks of different machines differ. Mostly the
/// mailbox is gone before.
const CLOCKS_DIFFER: Duration = Duration::from_mins(1);
/// Mailboxes that are kept while nobody asks.
const KEPT: usize = 8;
/// How long the broker has for what comes after a question: removing its mailbox, telling how many workers there are. It may be
/// away, and the asker's patience is over by then.
const FAREWELL: Duration = Duration::from_secs(2);

/// Asks workers. To be closed at the end; what a killed process leaves expires.
pub struct Exchange {
    broker: Arc<dyn Broker>,
    topology: Topology,
    patience: Duration,
    kept: Mutex<Vec<Mailbox>>,
}

/// A mailbox and its reader.
struct Mailbox {
    name: QueueName,
    letters: Box<dyn Consumer>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exchange").field("broker", &self.broker.describe()).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Waits at most `patience` for each answer.
    pub fn new(broker: Arc<dyn Broker>, topology: Topology, patience: Duration) -> Self {
        Self { broker, topology, patience, kept: Mutex::default() }
    }

    /// Publishes `job` and waits for the answer, which `read` reads, as long as patience lasts and until `gone` says that nobody
    /// wants it any more. Without an answer the mailbox is removed, and workers drop questions without a mailbox: call this to
    /// its end rather than dropping it.
    pub async fn ask<T>(
        &self,
        job: &Job,
        gone: &CancellationToken,
        read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> anyhow::Result<T> {
        let span = tracing::info_span!(
            target: spans::TARGET, "ask", otel.kind = "producer", messaging.message.id = %job.id
        );
        let asking = async {
            let mut open = None;
            let asked = tokio::select! {
                asked = timeout(self.patience, self.answered(&mut open, job, read)) => asked,
                () = gone.cancelled() => Ok(Err(anyhow::anyhow!("stopped"))),
            };
            match asked {
                Ok(Ok((mailbox, answer))) => {
                    self.keep(mailbox).await;
                    Ok(answer)
                }
                Ok(Err(error)) => {
                    self.remove(open).await;
                    Err(error)
                }
                Err(_) => {
                    self.remove(open).await;
                    Err(self.no_answer().await)
                }
            }
        };
        asking.instrument(span).await
    }

    /// The answer, and the mailbox that it came to. As long as there is none, or if there never is one, the mailbox that is to be
    /// removed is in `open`.
    async fn answered<T>(
        &self,
        open: &mut Option<QueueName>,
        job: &Job,
        read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> anyhow::Result<(Mailbox, T)> {
        let mut mailbox = self.mailbox(&job.id, open).await?;
        let answer = self.answer(&mut mailbox, job, read).await?;
        Ok((mailbox, answer))
    }

    async fn answer<T>(
        &self,
        mailbox: &mut Mailbox,
        job: &Job,
        read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> anyhow::Result<T> {
        let deadline = Timestamp::now().checked_add(self.patience.saturating_add(CLOCKS_DIFFER)).ok();
        let job = Job { deadline, ..job.clone() };
        let mut message = Message::new(job.id.as_str(), codec::encode_job(&job)?);
        message.correlation_id = Some(job.id.to_string());
        message.reply_to = Some(mailbox.name.clone());
        message.trace = spans::outgoing();
        self.broker.publish(&self.topology.lane_queue(Lane::Interactive), message).await?;
        loop {
            let letter = mailbox.letters.next().await?.context("the mailbox of this question was closed")?;
            // The mailbox may hold a second answer to the question that it was kept from.
            let is_ours = letter.message.correlation_id.as_deref() == Some(job.id.as_str());
            let answer = is_ours.then(|| read(&letter.message.body));
            letter.ack().await?;
            if let Some(answer) = answer {
                return answer.context("the worker's answer cannot be read");
            }
        }
    }

    /// How many workers take questions, as far as the queue tells.
    pub async fn workers(&self) -> Option<u32> {
        let lane = self.topology.lane_queue(Lane::Interactive);
        let depth = timeout(FAREWELL, self.broker.depth(&lane)).await.ok()?;
        depth.ok().map(|depth| depth.consumers)
    }

    /// Why nobody answered, as far as the queue tells.
    async fn no_answer(&self) -> anyhow::Error {
        if self.workers().await == Some(0) {
            let (queue, broker) = (self.topology.lane_queue(Lane::Interactive), self.broker.describe());
            return anyhow::anyhow!(
                "no worker consumes {queue} at {broker}: start `worker run` with the same --broker and --queue-prefix"
            );
        }
        anyhow::anyhow!(
            "no worker answered within {} s; they may be starting or serve another bundle: wait longer with --timeout",
            self.patience.as_secs()
        )
    }

    /// A mailbox that was kept, or a new one that is named by `id`; its name is in `open` as soon as it is there.
    async fn mailbox(&self, id: &JobId, open: &mut Option<QueueName>) -> anyhow::Result<Mailbox> {
        while let Some(mailbox) = self.take() {
            *open = Some(mailbox.name.clone());
            match self.broker.depth(&mailbox.name).await {
                Ok(_) => return Ok(mailbox),
                // One that expired while the broker was away is missed by workers before it is opened again.
                Err(error) if error.kind() == BrokerErrorKind::NoSuchQueue => self.remove(open.take()).await,
                // Of a broker that is away nothing can be learned about the others either.
                Err(_) => {
                    *open = None;
                    self.kept().push(mailbox);
                    break;
                }
            }
        }
        let name = self.broker.open_mailbox(&format!("search-{id}")).await?;
        *open = Some(name.clone());
        let letters = self.broker.consume(&name, 1).await?;
        Ok(Mailbox { name, letters })
    }

    fn take(&self) -> Option<Mailbox> {
        self.kept().pop()
    }

    async fn keep(&self, mailbox: Mailbox) {
        let name = mailbox.name.clone();
        let has_room = {
            let mut kept = self.kept();
            let has_room = kept.len() < KEPT;
            if has_room {
                kept.push(mailbox);
            }
            has_room
        };
        if !has_room {
            self.remove(Some(name)).await;
        }
    }

    async fn remove(&self, mailbox: Option<QueueName>) {
        let Some(mailbox) = mailbox else { return };
        match timeout(FAREWELL, self.broker.close_mailbox(&mailbox)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the mailbox stays until it expires"),
            Err(_) => tracing::debug!(%mailbox, "no answer: the mailbox stays until it expires"),
        }
    }

    /// Removes the mailboxes that were kept, if the broker is there.
    pub async fn close(&self) {
        let kept = std::mem::take(&mut *self.kept());
        futures::future::join_all(kept.into_iter().map(|mailbox| self.remove(Some(mailbox.name)))).await;
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Mailbox>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
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
