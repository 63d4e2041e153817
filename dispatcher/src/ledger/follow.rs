//! The watch over published jobs: outcomes from the mailbox, parts from the archive, the state of queue and broker.

use super::{Book, Tally};
use crate::archive;
use crate::bill::Effort;
use crate::output::counted;
use crate::progress::Progress;
use crate::scale::price::OpenWork;
use crate::telemetry::{Metrics, OpenJobs};
use captionfleet_proto::broker::{Broker, BrokerError, BrokerState, Consumer, Delivery, QueueName};
use captionfleet_proto::codec;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::outcome::{self, FrameCounts, JobOutcome};
use captionfleet_proto::rows::{RowKey, Status};
use captionfleet_proto::storage::Storage;
use captionfleet_worker::telemetry::readiness::Readiness;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// When the watch looks, and what it makes of silence.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// How often queue, broker and clock are looked at.
    tick: Duration,
    /// After so long without news the parts themselves are looked at.
    quiet: Duration,
    /// After so long without news and without a job in any queue the open jobs count as lost: longer than a worker holds one
    /// with its usual limits, and as long as a broker lets it.
    lost: Duration,
}

const TIMES: Times = Times {
    tick: Duration::from_secs(2),
    quiet: Duration::from_secs(15),
    lost: Duration::from_secs(30 * 60),
};
/// Outcomes in hand at a time.
const PREFETCH: u16 = 200;

/// What is watched.
pub struct Watched<'a> {
    /// The broker.
    pub broker: &'a dyn Broker,
    /// The lane's queue.
    pub queue: &'a QueueName,
    /// Where jobs of the lane rest before another try.
    pub rests: Vec<QueueName>,
    /// Where the parts appear.
    pub archive: &'a dyn Storage,
    /// The runs with open jobs.
    pub runs: Vec<RunId>,
}

/// Who hears of jobs as they settle.
pub trait Watcher: Send + Sync {
    /// A worker told what became of a job.
    fn told(&self, outcome: &JobOutcome);
    /// A job is not open any more: it has its rows, or was given up. What is left.
    fn settled(&self, open: OpenWork);
    /// So many consumers wait for jobs.
    fn consumers(&self, count: u32);
    /// Something that a person should know.
    fn remark(&self, text: &str);
}

/// Nobody.
#[derive(Debug)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn told(&self, _: &JobOutcome) {}
    fn settled(&self, _: OpenWork) {}
    fn consumers(&self, _: u32) {}
    fn remark(&self, _: &str) {}
}

/// Where the watch tells what it sees.
pub struct Observed {
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the broker can be used: the condition `broker`.
    pub readiness: Arc<Readiness>,
    /// Who hears of jobs as they settle.
    pub watcher: Arc<dyn Watcher>,
}

/// How the watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Every job settled or was given up.
    Closed,
    /// The user wanted to stop.
    Interrupted,
    /// Jobs are open that are nowhere: somebody must have removed them from the queue.
    Lost,
}

/// The watch.
pub struct Follower<'a> {
    watched: Watched<'a>,
    book: Book,
    progress: Progress,
    metrics: Metrics,
    open: OpenJobs,
    readiness: Arc<Readiness>,
    watcher: Arc<dyn Watcher>,
    last_news: Instant,
    /// Since when nothing has waited and nobody has told anything.
    nothing_since: Option<Instant>,
    times: Times,
    told_no_consumer: bool,
    told_away: bool,
}

impl<'a> Follower<'a> {
    /// Watches over the jobs of `book`.
    pub fn new(watched: Watched<'a>, book: Book, progress: Progress, observed: Observed) -> Self {
        let Observed { metrics, readiness, watcher } = observed;
        Self {
            watched,
            book,
            progress,
            open: metrics.open_jobs(),
            metrics,
            readiness,
            watcher,
            last_news: Instant::now(),
            nothing_since: None,
            times: TIMES,
            told_no_consumer: false,
            told_away: false,
        }
    }

    /// Watches until all jobs have settled or are lost, `stop` is wanted, or `publishing` or `worker` fail. What is lost can
    /// be published again and watched over by another call.
    ///
    /// `publishing` ends when all jobs are confirmed; `worker` only ends when the worker in this process is gone.
    pub async fn follow(
        &mut self,
        outcomes: &mut dyn Consumer,
        publishing: impl Future<Output = anyhow::Result<()>>,
        worker: impl Future<Output = anyhow::Error>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Followed> {
        let mut tick = tokio::time::interval(self.times.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(publishing, worker);
        let mut published = false;
        while !(published && self.book.is_closed()) {
            self.open.set(self.book.open_jobs());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Followed::Interrupted),
                done = &mut publishing, if !published => {
                    done?;
                    published = true;
                }
                delivery = outcomes.next() => match delivery? {
                    Some(delivery) => self.take(delivery).await?,
                    None => anyhow::bail!("the mailbox of this run was closed"),
                },
                gone = &mut worker => return Err(gone),
                // The archive may be asked for minutes.
                _ = tick.tick() => match stop.run_until_cancelled(self.look_around(published)).await {
                    Some(looked) => looked?,
                    None => return Ok(Followed::Interrupted),
                },
            }
            if self.nothing_since.is_some_and(|since| since.elapsed() >= self.times.lost) {
                self.nothing_since = None;
                let jobs = counted(self.book.open_jobs() as u64, "job");
                self.remark(&format!("{jobs} neither done nor in the queue: published again"));
                return Ok(Followed::Lost);
            }
        }
        self.open.set(0);
        Ok(Followed::Closed)
    }

    /// The jobs and their rows so far.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// What the user sees.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    async fn take(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        match codec::decode_outcome(&delivery.message.body) {
            Ok(outcome) => {
                self.last_news = Instant::now();
                self.nothing_since = None;
                self.watcher.told(&outcome);
                if outcome.is_cancelled() && !self.is_cancelled(&outcome.run).await {
                    // Of the time before the run was resumed: the job was published again since.
                    delivery.ack().await?;
                    return Ok(());
                }
                let open = self.book.open_jobs();
                let settled = self.book.note_outcome(&outcome);
                self.tell_what_is_open(open);
                if let Some(tally) = settled {
                    self.count(&tally);
                } else if let (Some(reason), true) = (&outcome.error, self.book.open_jobs() < open) {
                    self.metrics.job_dead();
                    let reason = crate::output::plain(reason);
                    self.remark(&format!("job {} was given up: {reason}", outcome.job));
                }
            }
            Err(error) => tracing::warn!(%error, "a message in the run's mailbox is no outcome"),
        }
        delivery.ack().await?;
        Ok(())
    }

    /// Whether the run's jobs are being dropped now. A fault of the archive says no: it is asked again when all is quiet.
    async fn is_cancelled(&self, run: &RunId) -> bool {
        self.watched.archive.head(&layout::run_cancelled(run)).await.is_ok()
    }

    /// A job that was given up before and has its rows now is settled for the second time.
    fn tell_what_is_open(&self, before: usize) {
        if self.book.open_jobs() < before {
            self.watcher.settled(self.book.open_work());
        }
    }

    fn count(&mut self, tally: &Tally) {
        self.metrics.job_settled(tally);
        self.progress.advance(tally.looked_at(), tally.failed_total());
    }

    fn remark(&self, text: &str) {
        self.progress.remark(text);
        self.watcher.remark(text);
    }

    async fn look_around(&mut self, published: bool) -> anyhow::Result<()> {
        self.progress.tell();
        self.look_at_broker();
        if let Ok(depth) = self.watched.broker.depth(self.watched.queue).await {
            self.metrics.queue_seen(self.watched.queue, depth);
            self.watcher.consumers(depth.consumers);
            let idle = published && depth.consumers == 0 && depth.messages > 0;
            if idle && !self.told_no_consumer && !self.watched.broker.is_local() {
                self.told_no_consumer = true;
                self.remark(&format!(
                    "no worker consumes {} at {}: start `worker run` with the same --broker and --queue-prefix",
                    self.watched.queue,
                    self.watched.broker.describe()
                ));
            }
        }
        // Before everything is published as well: jobs whose outcomes were lost may be what holds the next ones back.
        if self.last_news.elapsed() >= self.times.quiet {
            let open = self.book.open_jobs();
            self.look_for_parts().await;
            self.last_news = Instant::now();
            if !published || self.book.open_jobs() < open || self.something_waits().await {
                self.nothing_since = None;
            } else {
                self.nothing_since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Whether any job is in a queue, of whatever run; a broker that does not answer may have some.
    async fn something_waits(&self) -> bool {
        for queue in self.watched.rests.iter().chain([self.watched.queue]) {
            if self.watched.broker.depth(queue).await.map_or(true, |depth| depth.messages > 0) {
                return true;
            }
        }
        false
    }

    /// Says once that the broker is away or blocked, and once that it is back.
    fn look_at_broker(&mut self) {
        let state = self.watched.broker.state();
        let told = match &state {
            BrokerState::Connecting { last_error, .. } => {
                let why = last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                Some(format!("the broker is away{why}; waiting for its return"))
            }
            BrokerState::Blocked { reason } => {
                Some(format!("the broker takes no messages now: {reason}; waiting"))
            }
            BrokerState::Connected | BrokerState::Closed => None,
        };
        match &told {
            Some(line) => self.readiness.not_ready("broker", line),
            None => self.readiness.ready("broker"),
        }
        match (told, self.told_away) {
            (Some(line), false) => {
                self.remark(&line);
                self.told_away = true;
            }
            (None, true) => {
                self.remark("the broker is back");
                self.told_away = false;
            }
            _ => {}
        }
    }

    /// Settles jobs whose outcome was lost: by their parts, or because their run was cancelled. A fault of the archive is for the next look.
    pub async fn look_for_parts(&mut self) {
        for run in self.watched.runs.clone() {
            let found = match archive::parts(self.watched.archive, Some(&run)).await {
                Ok(mut parts) => parts.remove(&run).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, run = %run, "the archive's parts cannot be listed now");
                    return;
                }
            };
            for (job, key) in found {
                if self.book.waits_for(&run, &job) {
                    self.settle_by_part(&run, &job, key).await;
                }
            }
            if self.book.is_waiting_for(&run) && self.is_cancelled(&run).await {
                let count = self.book.give_up(&run, outcome::CANCELLED);
                for _ in 0..count {
                    self.metrics.job_dead();
                    self.watcher.settled(self.book.open_work());
                }
                let jobs = counted(count as u64, "job");
                self.remark(&format!("run {run} was cancelled: {jobs} of it will not be done"));
            }
        }
    }

    async fn settle_by_part(&mut self, run: &RunId, job: &JobId, key: String) {
        match archive::keys(self.watched.archive, key).await {
            Ok(rows) => {
                let open = self.book.open_jobs();
                if let Some(tally) = self.book.note_part(run, job, Tally::of(&rows)) {
                    self.count(&tally);
                }
                self.tell_what_is_open(open);
            }
            Err(error) => tracing::warn!(%error, job = %job, "a part cannot be read now"),
        }
    }
}

impl Follower<'_> {
    /// Subscribes to the run's mailbox.
    pub async fn subscribe(
        broker: &dyn Broker,
        mailbox: &QueueName,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        broker.consume(mailbox, PREFETCH).await
    }
}

impl Tally {
    /// Counts rows.
    pub fn of(rows: &[RowKey]) -> Self {
        let frames = FrameCounts::of(rows.iter().map(|row| row.frames));
        let mut tally = Self { frames, effort: Effort::of(rows), ..Self::default() };
        for row in rows {
            match row.status {
                Status::Ok => tally.ok += 1,
                Status::Skipped => tally.skipped += 1,
                Status::Failed => {
                    *tally.failed.entry(row.error_code.clone().unwrap_or_default()).or_default() += 1;
                }
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests;
