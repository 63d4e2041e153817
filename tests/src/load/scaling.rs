//! What more workers bring, as long as the machine has room for them.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::watch::machine_seconds;
use super::{Ground, Workers, caption, number, report};
use crate::fleet::Fleet;

/// Pictures of a job: few, so that the last jobs of a step are short.
const JOB_SIZE: &str = "8";

/// Throughput by number of workers.
#[derive(Debug, Serialize)]
pub struct Scaling {
    /// Seconds that a worker's device takes for an item.
    pub seconds_per_item: f64,
    /// One by one.
    pub steps: Vec<Step>,
}

/// One number of workers.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Workers.
    pub workers: usize,
    /// Items.
    pub items: u64,
    /// Rows per second.
    pub items_per_second: f64,
    /// Beside what as many devices could do at most.
    pub of_the_devices: f64,
    /// Share of the machine's processors that was busy, broker, store and dispatcher included.
    pub machine_busy: f64,
}

/// Has every number of workers of `steps`, which grow, do `seconds` of work.
///
/// # Errors
/// When a worker or a run fails.
pub async fn scaling(
    ground: &Ground,
    steps: &[usize],
    seconds_per_item: f64,
    seconds: f64,
) -> anyhow::Result<Scaling> {
    let fleet = ground.fleet("scaling")?;
    let mut workers = Workers::none(&fleet, seconds_per_item).await?;
    let mut measured = Vec::new();
    for &count in steps {
        workers.start(&fleet, count)?;
        workers.ready().await?;
        let items = (count as f64 * seconds / seconds_per_item).round() as u64;
        measured.push(step(&fleet, count, items, seconds_per_item).await?);
    }
    workers.stop().await?;
    Ok(Scaling { seconds_per_item, steps: measured })
}

async fn step(fleet: &Fleet, workers: usize, items: u64, seconds_per_item: f64) -> anyhow::Result<Step> {
    let (busy_before, all_before) = machine_seconds()?;
    let started = Instant::now();
    let archive = format!("archive-{workers}");
    let mut dispatcher = caption(fleet, items, &archive, &["--job-size", JOB_SIZE, "--no-embed"])?;
    let report = report(&mut dispatcher).await?;
    let (busy, all) = machine_seconds()?;
    let rows = number(&report, "ok")?;
    anyhow::ensure!(rows == items as f64, "not every picture is ok after {:?}: {report}", started.elapsed());
    let items_per_second = rows / number(&report, "seconds")?;
    Ok(Step {
        workers,
        items,
        items_per_second,
        of_the_devices: items_per_second * seconds_per_item / workers as f64,
        machine_busy: (busy - busy_before) / (all - all_before).max(f64::EPSILON),
    })
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_item = self.seconds_per_item;
        writeln!(f, "null engine, {per_item} s an item")?;
        writeln!(f, "workers     items   items/s   of what the devices could do   machine busy")?;
        for step in &self.steps {
            let Step { workers, items, items_per_second, of_the_devices, machine_busy } = step;
            let (devices, machine) = (100.0 * of_the_devices, 100.0 * machine_busy);
            writeln!(
                f,
                "{workers:>7} {items:>9} {items_per_second:>9.1} {devices:>28.1} % {machine:>12.0} %"
            )?;
        }
        Ok(())
    }
}
