//! The simulator beside the fleet that it stands for: the same bursts through `dispatcher simulate` and through real workers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use captionfleet_proto::rows::read_keys;
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{Ground, Workers, caption, number, report};
use crate::faults::Member;
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

/// The workers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Devices {
    /// How many.
    pub workers: usize,
    /// Seconds that each one's device takes for an item.
    pub seconds_per_item: f64,
    /// Items of a job.
    pub job_size: u64,
}

/// What goes wrong: machines come late, and one is taken away.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Trouble {
    /// Seconds from the order of a machine until it is there and its worker is started.
    pub provision: u64,
    /// Seconds from the start until a worker is killed and another machine ordered.
    pub kill_at: u64,
}

/// How it went: when, in seconds from the start.
#[derive(Debug, Clone, Copy, Serialize)]
struct Went {
    /// From the start of the workers until one took jobs.
    load: f64,
    killed_at: f64,
    /// What the killed worker's device had computed.
    killed_busy: f64,
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
    /// Of the devices, for what had to be done again.
    pub wasted_seconds: f64,
}

/// Both courses.
#[derive(Debug, Serialize)]
pub struct Simulation {
    /// Who worked: ready at the start, or as `trouble` has it.
    pub devices: Devices,
    /// What went wrong.
    pub trouble: Option<Trouble>,
    /// Seconds from the start of the workers' processes until the first of them took jobs, where they came late.
    pub load_seconds: Option<f64>,
    /// What arrived.
    pub bursts: Vec<Burst>,
    /// Jobs that were done.
    pub jobs: usize,
    /// As simulated: whole seconds, rounded up.
    pub simulated: Course,
    /// As it was.
    pub real: Course,
}

/// Sends `bursts` through workers of the null engine, each as a run of its own, and through the simulator.
///
/// # Errors
/// When a run fails.
pub async fn simulation(
    ground: &Ground,
    bursts: &[Burst],
    devices: Devices,
    trouble: Option<Trouble>,
) -> anyhow::Result<Simulation> {
    let fleet = ground.fleet("simulation")?;
    let mut crew = Workers::none(&fleet, devices.seconds_per_item).await?.watched();
    if trouble.is_none() {
        crew.start(&fleet, devices.workers)?;
        crew.ready().await?;
    }
    let started = Instant::now();
    let (runs, went) = tokio::try_join!(
        arrive(&fleet, bursts, devices.job_size, started),
        suffer(&fleet, &mut crew, devices.workers, trouble, started)
    )?;
    let (mut waits, mut first, mut last) = (Vec::new(), f64::INFINITY, 0.0_f64);
    for (run, burst) in runs.into_iter().zip(bursts) {
        let Run { mut dispatcher, arrived, archive } = run;
        let report = report(&mut dispatcher).await?;
        anyhow::ensure!(number(&report, "ok")? == burst.items as f64, "not every picture is ok: {report}");
        first = first.min(arrived);
        for ended in ends(&ground.bucket_folder().join(fleet.queue_prefix()).join(archive).join("parts"))? {
            last = last.max(ended);
            waits.push(ended - arrived);
        }
    }
    let busy = crew.device_seconds().await + went.map_or(0.0, |went| went.killed_busy);
    crew.stop().await?;
    waits.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| waits[((waits.len() as f64 * share).ceil() as usize).saturating_sub(1)];
    anyhow::ensure!(!waits.is_empty(), "no part was written to s3://{BUCKET}");
    let items: u64 = bursts.iter().map(|burst| burst.items).sum();
    Ok(Simulation {
        devices,
        trouble,
        load_seconds: went.map(|went| went.load),
        bursts: bursts.to_vec(),
        jobs: waits.len(),
        simulated: simulated(&fleet, bursts, devices, trouble.zip(went)).await?,
        real: Course {
            seconds: last - first,
            wait_p50: quantile(0.5),
            wait_p95: quantile(0.95),
            // What a worker did between the look at it and its end is not seen.
            wasted_seconds: (busy - items as f64 * devices.seconds_per_item).max(0.0),
        },
    })
}

/// A burst on its way.
struct Run {
    dispatcher: Member,
    /// Seconds since 1970.
    arrived: f64,
    archive: String,
}

/// Starts every burst in its time.
async fn arrive(
    fleet: &Fleet,
    bursts: &[Burst],
    job_size: u64,
    started: Instant,
) -> anyhow::Result<Vec<Run>> {
    let job_size = job_size.to_string();
    let mut runs = Vec::new();
    for (number, burst) in bursts.iter().enumerate() {
        until(started, burst.at).await;
        let arrived = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let archive = format!("burst-{number}");
        let dispatcher = caption(fleet, burst.items, &archive, &["--no-embed", "--job-size", &job_size])?;
        runs.push(Run { dispatcher, arrived, archive });
    }
    Ok(runs)
}

/// Brings workers late, kills one, and replaces it.
async fn suffer(
    fleet: &Fleet,
    crew: &mut Workers,
    workers: usize,
    trouble: Option<Trouble>,
    started: Instant,
) -> anyhow::Result<Option<Went>> {
    let Some(trouble) = trouble else { return Ok(None) };
    until(started, trouble.provision).await;
    let ordered = Instant::now();
    crew.start(fleet, workers)?;
    crew.some_ready(1).await?;
    let load = ordered.elapsed().as_secs_f64();
    crew.ready().await?;
    until(started, trouble.kill_at).await;
    let killed_at = started.elapsed().as_secs_f64();
    let killed_busy = crew.kill_one().await?;
    sleep(Duration::from_secs(trouble.provision)).await;
    crew.start(fleet, workers)?;
    crew.ready().await?;
    Ok(Some(Went { load, killed_at, killed_busy }))
}

async fn until(started: Instant, seconds: u64) {
    sleep(Duration::from_secs(seconds).saturating_sub(started.elapsed())).await;
}

/// What the simulator says. It is told how long workers take to be ready, which depends on the machine.
async fn simulated(
    fleet: &Fleet,
    bursts: &[Burst],
    devices: Devices,
    trouble: Option<(Trouble, Went)>,
) -> anyhow::Result<Course> {
    let arrivals = fleet.folder().join("arrivals.csv");
    let lines: Vec<String> = bursts.iter().map(|burst| format!("{},{}\n", burst.at, burst.items)).collect();
    std::fs::write(&arrivals, lines.concat())?;
    let mut arguments = vec!["simulate".to_owned(), "--json".to_owned()];
    let mut say = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    say("arrivals-file", arrivals.display().to_string());
    say("fixed", devices.workers.to_string());
    say("seconds-per-item", devices.seconds_per_item.to_string());
    say("job-size", devices.job_size.to_string());
    say("interruptions", "0".to_owned());
    if let Some((trouble, went)) = trouble {
        say("provision", trouble.provision.to_string());
        say("load", went.load.round().to_string());
        say("interrupt-at", went.killed_at.round().to_string());
        arguments.push("--cold".to_owned());
    }
    let told: Value = fleet.dispatcher(arguments).await?.success()?.json()?;
    let of = |name: &str| told[0][name].as_f64().with_context(|| format!("{told} has no {name}"));
    Ok(Course {
        seconds: of("seconds")?,
        wait_p50: of("wait_p50")?,
        wait_p95: of("wait_p95")?,
        wasted_seconds: of("wasted_seconds")?,
    })
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
        let Self { devices, jobs, simulated, real, .. } = self;
        let Devices { workers, seconds_per_item, job_size } = devices;
        let bursts: Vec<String> =
            self.bursts.iter().map(|Burst { at, items }| format!("{items} after {at} s")).collect();
        writeln!(
            f,
            "{workers} workers (null engine, {seconds_per_item} s an item), {jobs} jobs of {job_size}"
        )?;
        writeln!(f, "items: {}", bursts.join(", "))?;
        if let (Some(Trouble { provision, kill_at }), Some(load)) = (self.trouble, self.load_seconds) {
            writeln!(
                f,
                "started after {provision} s, the first ready {load:.1} s later; one killed after {kill_at} s and replaced likewise"
            )?;
        }
        writeln!(f, "                    simulated      real   difference")?;
        for (name, simulated, real) in [
            ("first to last row", simulated.seconds, real.seconds),
            ("wait, median", simulated.wait_p50, real.wait_p50),
            ("wait, 95th of 100", simulated.wait_p95, real.wait_p95),
            ("wasted", simulated.wasted_seconds, real.wasted_seconds),
        ] {
            let difference = if simulated == 0.0 {
                String::new()
            } else {
                format!("{:>+10.1} %", 100.0 * (real / simulated - 1.0))
            };
            writeln!(f, "{name:<18} {simulated:>8.1} s {real:>7.1} s {difference}")?;
        }
        Ok(())
    }
}
