//! A small run beside a huge one.

use std::fmt;

use anyhow::Context;
use serde::Serialize;

use super::{Ground, PATIENCE, Workers, caption, number, report};
use crate::faults::wait_for;
use crate::fleet::Fleet;

/// How often the small run is measured, alone and beside the huge one.
const ROUNDS: usize = 3;

/// How long the small run takes.
#[derive(Debug, Serialize)]
pub struct Fairness {
    /// Items of the small run.
    pub small: u64,
    /// Items of the huge run.
    pub huge: u64,
    /// Workers.
    pub workers: usize,
    /// Seconds that a worker's device takes for an item.
    pub seconds_per_item: f64,
    /// Seconds from the small run's first job to its last row while nothing else waits, each time.
    pub alone_seconds: Vec<f64>,
    /// The same while the huge run is worked on.
    pub beside_seconds: Vec<f64>,
    /// What the small run would have waited for behind the whole of the huge one, in seconds of the whole fleet.
    pub behind_seconds: f64,
}

/// Measures the small run alone, then beside the huge one, which is stopped in the end.
///
/// # Errors
/// When a run fails, or the huge one is done before the small ones are.
pub async fn fairness(
    ground: &Ground,
    (small, huge): (u64, u64),
    workers: usize,
    seconds_per_item: f64,
) -> anyhow::Result<Fairness> {
    let fleet = ground.fleet("fairness")?;
    let mut crew = Workers::none(&fleet, seconds_per_item).await?;
    crew.start(&fleet, workers)?;
    crew.ready().await?;
    let mut alone_seconds = Vec::new();
    for round in 0..ROUNDS {
        alone_seconds.push(small_run(&fleet, small, &format!("alone-{round}")).await?);
    }
    let mut huge_run = caption(&fleet, huge, "huge", &["--no-embed"])?;
    let rows = "captionfleet_dispatcher_items_total{code=\"\",status=\"ok\"}";
    let goes_on = || async { huge_run.metric(rows).await > 0.0 };
    wait_for("the huge run to begin", PATIENCE, goes_on).await.with_context(|| huge_run.child.output())?;
    let mut beside_seconds = Vec::new();
    for round in 0..ROUNDS {
        beside_seconds.push(small_run(&fleet, small, &format!("beside-{round}")).await?);
    }
    anyhow::ensure!(huge_run.child.is_running(), "the huge run ended too soon:\n{}", huge_run.child.output());
    let left = huge as f64 - huge_run.metric(rows).await;
    drop(huge_run);
    crew.stop().await?;
    let behind_seconds = left * seconds_per_item / workers as f64;
    Ok(Fairness { small, huge, workers, seconds_per_item, alone_seconds, beside_seconds, behind_seconds })
}

async fn small_run(fleet: &Fleet, items: u64, archive: &str) -> anyhow::Result<f64> {
    let mut dispatcher = caption(fleet, items, archive, &["--no-embed"])?;
    let report = report(&mut dispatcher).await?;
    anyhow::ensure!(number(&report, "ok")? == items as f64, "not every picture is ok: {report}");
    number(&report, "seconds")
}

impl fmt::Display for Fairness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { small, huge, workers, seconds_per_item, behind_seconds, .. } = self;
        let told = |seconds: &[f64]| {
            let each: Vec<String> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
            format!("{} s", each.join(", "))
        };
        writeln!(f, "{workers} workers (null engine, {seconds_per_item} s an item)")?;
        writeln!(f, "a run of {small:<35} {}", told(&self.alone_seconds))?;
        writeln!(f, "beside one of {huge:<30} {}", told(&self.beside_seconds))?;
        writeln!(f, "behind the rest of it it would have been     {behind_seconds:.0} s more")
    }
}
