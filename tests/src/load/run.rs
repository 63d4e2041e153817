//! One run from its plan to its last row: what the dispatcher holds, how fast it publishes, what an item costs a worker.

use std::fmt;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::peer::{Messages, bare, perf_test};
use super::watch::{Resident, Span};
use super::{Ground, PATIENCE, Workers, caption, number, report};
use crate::faults::{Member, wait_for};
use crate::fleet::Fleet;

/// Peers are measured so often, and the best counts.
const PEER_ROUNDS: usize = 3;
/// Messages that peers publish at least: PerfTest's virtual machine has to get warm.
const LEAST_MESSAGES: u64 = 5000;

/// How large, and beside whom.
#[derive(Debug, Clone)]
pub struct Load {
    /// Pictures.
    pub items: u64,
    /// Workers.
    pub workers: usize,
    /// Most pictures of a job.
    pub job_size: u64,
    /// Whether rows have embeddings (of noise), 16 KiB each.
    pub embed: bool,
    /// How RabbitMQ's PerfTest is started, if it is there.
    pub perf_test: Option<String>,
}

/// What it came to.
#[derive(Debug, Serialize)]
pub struct Ran {
    /// Pictures, each of which has one row.
    pub items: u64,
    /// Jobs.
    pub jobs: u64,
    /// Workers.
    pub workers: usize,
    /// Whether rows have embeddings.
    pub embeddings: bool,
    /// Bytes of a job's message, on average.
    pub message_bytes: u64,
    /// Jobs published with confirms per second.
    pub published_per_second: f64,
    /// Messages per second of the client library alone, at best.
    pub client_per_second: f64,
    /// Messages per second of RabbitMQ's PerfTest, at best.
    pub perf_test_per_second: Option<f64>,
    /// Seconds from the start to the first confirmed job.
    pub planning_seconds: f64,
    /// Seconds from the first worker to the last row.
    pub working_seconds: f64,
    /// Rows per second meanwhile.
    pub items_per_second: f64,
    /// Processor time of the workers for an item, start and shutdown included, in milliseconds.
    pub worker_ms_per_item: f64,
    /// Processor time of the dispatcher for an item, in milliseconds.
    pub dispatcher_ms_per_item: f64,
    /// The largest worker at the end, in MiB.
    pub worker_mib: u64,
    /// The dispatcher's memory while it plans.
    pub planning: Memory,
    /// The dispatcher's memory while it publishes.
    pub publishing: Memory,
    /// The dispatcher's memory while workers work.
    pub working: Memory,
}

/// Resident memory of one phase.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// The most, in MiB.
    pub peak_mib: f64,
    /// At the beginning, in MiB.
    pub first_mib: f64,
    /// At the end, in MiB.
    pub last_mib: f64,
    /// Growth in the second half, in MiB a minute.
    pub slope_mib_per_minute: f64,
}

impl From<Span> for Memory {
    fn from(span: Span) -> Self {
        let (first_mib, last_mib) = span.ends_mib();
        let (peak_mib, slope_mib_per_minute) = (span.peak_mib(), span.slope_mib_per_minute());
        Self { peak_mib, first_mib, last_mib, slope_mib_per_minute }
    }
}

/// Plans and publishes everything, then lets the workers work, has `verify` prove that every picture has one row, and lets the peers
/// publish as much.
///
/// # Errors
/// When anything fails, or a row is missing.
pub async fn run(ground: &Ground, load: &Load) -> anyhow::Result<Ran> {
    let fleet = ground.fleet("run")?;
    let jobs = load.items.div_ceil(load.job_size);
    let job_size = load.job_size.to_string();
    let embedding: &[&str] = if load.embed { &[] } else { &["--no-embed"] };
    let options = [&["--job-size", &job_size], embedding].concat();
    let started = Instant::now();
    let mut dispatcher = caption(&fleet, load.items, "archive", &options)?;
    let resident = Resident::of(dispatcher.child.pid());
    published(&dispatcher, 1).await?;
    let first_published = resident.border();
    published(&dispatcher, jobs).await?;
    let all_published = resident.border();
    let mut workers = Workers::none(&fleet, 0.0).await?;
    let begun = resident.border();
    workers.start(&fleet, load.workers)?;
    let settled = settled(&dispatcher, load.items).await;
    let done = resident.border();
    let dispatcher_seconds = super::watch::processor_seconds(dispatcher.child.pid());
    settled?;
    let report = report(&mut dispatcher).await?;
    let processor_seconds = workers.processor_seconds()?;
    let worker_mib = workers.largest_mib();
    workers.stop().await?;
    anyhow::ensure!(number(&report, "ok")? == load.items as f64, "not every picture is ok: {report}");
    verify(&fleet).await?;

    // What is compared is measured one after the other, with nothing else at work.
    let message_bytes = (number(&report, "published_bytes")? / jobs as f64).round() as u64;
    let messages = Messages { broker: fleet.broker(), count: jobs.max(LEAST_MESSAGES), bytes: message_bytes };
    let (mut client_per_second, mut perf_test_per_second) = (0.0_f64, None);
    for _ in 0..PEER_ROUNDS {
        client_per_second = client_per_second.max(bare(&messages).await?);
        if let Some(command) = &load.perf_test {
            let rate = perf_test(command, &messages).await?;
            perf_test_per_second = Some(perf_test_per_second.map_or(rate, |best: f64| best.max(rate)));
            ground.rabbitmq.ctl(&["delete_queue", "captionfleet-load-perf-test"]).await?;
        }
    }

    let working_seconds = (done - begun).as_secs_f64();
    let items = load.items as f64;
    Ok(Ran {
        items: load.items,
        jobs,
        workers: load.workers,
        embeddings: load.embed,
        message_bytes,
        published_per_second: jobs as f64 / number(&report, "publishing_seconds")?,
        client_per_second,
        perf_test_per_second,
        planning_seconds: (first_published - started).as_secs_f64(),
        working_seconds,
        items_per_second: items / working_seconds,
        worker_ms_per_item: 1000.0 * processor_seconds / items,
        dispatcher_ms_per_item: 1000.0 * dispatcher_seconds.unwrap_or_default() / items,
        worker_mib,
        planning: resident.between(started, first_published).into(),
        publishing: resident.between(first_published, all_published).into(),
        working: resident.between(begun, done).into(),
    })
}

/// Waits until the broker has so many jobs.
async fn published(dispatcher: &Member, jobs: u64) -> anyhow::Result<()> {
    let name = "captionfleet_dispatcher_jobs_published_total";
    let are_there = || async { dispatcher.metric(name).await >= jobs as f64 };
    let waited = wait_for("the jobs to be published", PATIENCE, are_there).await;
    waited.with_context(|| dispatcher.child.output())
}

/// Waits until so many rows were heard of, or the dispatcher has ended.
async fn settled(dispatcher: &Member, items: u64) -> anyhow::Result<()> {
    let name = "captionfleet_dispatcher_items_total{code=\"\",status=\"ok\"}";
    let are_there = || async {
        // The last look may come too late.
        dispatcher.metric(name).await >= items as f64 || dispatcher.resident_mib() == 0
    };
    wait_for("the rows", PATIENCE, are_there).await
}

async fn verify(fleet: &Fleet) -> anyhow::Result<()> {
    let archive = fleet.s3_uri("archive");
    let arguments = ["verify", "--archive", &archive, "--s3-endpoint", fleet.s3_endpoint(), "--quiet"];
    fleet.dispatcher(arguments).await?.success()?;
    Ok(())
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, value: String| writeln!(f, "{what:<44} {value}");
        let embeddings = if self.embeddings { "with" } else { "without" };
        line("items", format!("{} in {} jobs, {embeddings} embeddings", self.items, self.jobs))?;
        line("workers", format!("{} (null engine, 0 s an item)", self.workers))?;
        line("a job's message", format!("{} bytes", self.message_bytes))?;
        line("published with confirms", format!("{:.0} jobs/s", self.published_per_second))?;
        let beside = |peer: f64| format!("{peer:.0}/s, ratio {:.2}", self.published_per_second / peer);
        line("  beside the client library alone, best of 3", beside(self.client_per_second))?;
        if let Some(perf_test) = self.perf_test_per_second {
            line("  beside RabbitMQ's PerfTest, best of 3", beside(perf_test))?;
        }
        line("planned until the first job was published", format!("{:.1} s", self.planning_seconds))?;
        line("worked on", format!("{:.1} s, {:.0} items/s", self.working_seconds, self.items_per_second))?;
        line("worker", format!("{:.3} ms of processor time an item", self.worker_ms_per_item))?;
        line("dispatcher", format!("{:.3} ms of processor time an item", self.dispatcher_ms_per_item))?;
        line("largest worker", format!("{} MiB", self.worker_mib))?;
        for (phase, memory) in
            [("planning", &self.planning), ("publishing", &self.publishing), ("working", &self.working)]
        {
            let Memory { peak_mib, first_mib, last_mib, slope_mib_per_minute } = memory;
            let text = format!(
                "{first_mib:.0} to {last_mib:.0} MiB, at most {peak_mib:.0}; second half {slope_mib_per_minute:+.2} MiB/min"
            );
            line(&format!("dispatcher's memory while {phase}"), text)?;
        }
        Ok(())
    }
}
