//! The simulator beside the fleet that it stands for: the same bursts through `dispatcher simulate` and through real workers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use captionfleet_proto::rows::read_keys;
use serde::Serialize;

use super::{Ground, Workers, caption, number, report};
use crate::fleet::Fleet;
use crate::sandbox::BUCKET;

/// So many items at a time, given in seconds from the start.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Burst {
    /// Seconds from the start.
    pub at: u64,
    /// Items.
    pub items: u64,
}

/// What the bursts came to, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Course {
    /// From the first arrival to the last row.
    pub seconds: f64,
    /// From an arrival to the end of a job: the median.
    pub wait_p50: f64,
    /// The same, for the 95th of a hundred.
    pub wait_p95: f64,
}

/// Both courses.
#[derive(Debug, Serialize)]
pub struct Simulation {
    /// Workers, ready at the start.
    pub workers: usize,
    /// Seconds that a worker's device takes for an item.
    pub seconds_per_item: f64,
    /// Items of a job.
    pub job_size: u64,
    /// What arrived.
    pub bursts: Vec<Burst>,
    /// Jobs that were done.
    pub jobs: usize,
    /// As simulated: whole seconds, rounded up.
    pub simulated: Course,
    /// As it was.
    pub real: Course,
}

/// Sends `bursts` through `workers` workers of the null engine, each as a run of its own, and through the simulator.
///
/// # Errors
/// When a run fails.
pub async fn simulation(
    ground: &Ground,
    bursts: &[Burst],
    workers: usize,
    (seconds_per_item, job_size): (f64, u64),
) -> anyhow::Result<Simulation> {
    let fleet = ground.fleet("simulation")?;
    let mut crew = Workers::none(&fleet, seconds_per_item).await?;
    crew.start(&fleet, workers)?;
    crew.ready().await?;
    let (started, size) = (Instant::now(), job_size.to_string());
    let mut runs = Vec::new();
    for (number, burst) in bursts.iter().enumerate() {
        tokio::time::sleep(Duration::from_secs(burst.at).saturating_sub(started.elapsed())).await;
        let arrived = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let archive = format!("burst-{number}");
        let run = caption(&fleet, burst.items, &archive, &["--no-embed", "--job-size", &size])?;
        runs.push((run, arrived, archive));
    }
    let (mut waits, mut first, mut last) = (Vec::new(), f64::INFINITY, 0.0_f64);
    for ((mut run, arrived, archive), burst) in runs.into_iter().zip(bursts) {
        let report = report(&mut run).await?;
        anyhow::ensure!(number(&report, "ok")? == burst.items as f64, "not every picture is ok: {report}");
        let arrived = arrived.as_secs_f64();
        first = first.min(arrived);
        for ended in ends(&ground.bucket_folder().join(fleet.queue_prefix()).join(archive).join("parts"))? {
            last = last.max(ended);
            waits.push(ended - arrived);
        }
    }
    crew.stop().await?;
    waits.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| waits[((waits.len() as f64 * share).ceil() as usize).saturating_sub(1)];
    anyhow::ensure!(!waits.is_empty(), "no part was written to s3://{BUCKET}");
    Ok(Simulation {
        workers,
        seconds_per_item,
        job_size,
        bursts: bursts.to_vec(),
        jobs: waits.len(),
        simulated: simulated(&fleet, bursts, workers, seconds_per_item, &size).await?,
        real: Course { seconds: last - first, wait_p50: quantile(0.5), wait_p95: quantile(0.95) },
    })
}

/// What the simulator says.
async fn simulated(
    fleet: &Fleet,
    bursts: &[Burst],
    workers: usize,
    seconds_per_item: f64,
    job_size: &str,
) -> anyhow::Result<Course> {
    let arrivals = fleet.folder().join("arrivals.csv");
    let lines: Vec<String> = bursts.iter().map(|burst| format!("{},{}\n", burst.at, burst.items)).collect();
    std::fs::write(&arrivals, lines.concat())?;
    let (arrivals, workers) = (arrivals.display().to_string(), workers.to_string());
    let each = seconds_per_item.to_string();
    let told = fleet
        .dispatcher([
            "simulate",
            "--arrivals-file",
            &arrivals,
            "--fixed",
            &workers,
            "--seconds-per-item",
            &each,
            "--job-size",
            job_size,
            "--interruptions",
            "0",
            "--json",
        ])
        .await?
        .success()?
        .json()?;
    let of = |name: &str| told[0][name].as_f64().with_context(|| format!("{told} has no {name}"));
    Ok(Course { seconds: of("seconds")?, wait_p50: of("wait_p50")?, wait_p95: of("wait_p95")? })
}

/// When the last row of each part below `folder` was made, in seconds since 1970.
fn ends(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let mut ends = Vec::new();
    for run in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        for part in std::fs::read_dir(run?.path())? {
            let part: PathBuf = part?.path();
            let rows = read_keys(std::fs::read(&part)?.into())?;
            let ended = rows.iter().map(|row| row.finished_at.as_microsecond()).max();
            ends.push(ended.with_context(|| format!("{} has no rows", part.display()))? as f64 / 1e6);
        }
    }
    Ok(ends)
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, seconds_per_item, job_size, jobs, simulated, real, .. } = self;
        let bursts: Vec<String> =
            self.bursts.iter().map(|Burst { at, items }| format!("{items} after {at} s")).collect();
        writeln!(
            f,
            "{workers} workers (null engine, {seconds_per_item} s an item), {jobs} jobs of {job_size}"
        )?;
        writeln!(f, "items: {}", bursts.join(", "))?;
        writeln!(f, "                    simulated      real   difference")?;
        for (name, simulated, real) in [
            ("first to last row", simulated.seconds, real.seconds),
            ("wait, median", simulated.wait_p50, real.wait_p50),
            ("wait, 95th of 100", simulated.wait_p95, real.wait_p95),
        ] {
            let difference = 100.0 * (real / simulated - 1.0);
            writeln!(f, "{name:<18} {simulated:>8.1} s {real:>7.1} s {difference:>+10.1} %")?;
        }
        Ok(())
    }
}
