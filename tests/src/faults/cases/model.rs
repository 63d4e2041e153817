//! Bundles that are not what they say, and hours of work in one process.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use captionfleet_proto::rows::Status;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Figures, Scale};
use crate::faults::{Corpus, Expected, Scenario, wait_for};
use crate::fleet::worker;

const LIMIT: Duration = Duration::from_secs(120);

/// Case 24: one flipped byte in any file of a bundle; another bundle than the run asks for.
pub(super) async fn damaged_bundle(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("bundle", Corpus::shared().await?, 4).await?;
    let folder = scenario.fleet.folder().join("bundle");
    let bundle = folder.display().to_string();
    worker(["random-bundle", "--small", "--out", &bundle]).await?.success()?;
    let job = scenario.job("waits", &scenario.files).await?;
    scenario.publish(&job).await?;
    let mut dice = StdRng::seed_from_u64(scale.seed);
    let mut refused = 0;
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let whole = std::fs::read(&path)?;
        let mut damaged = whole.clone();
        let at = dice.random_range(0..damaged.len());
        damaged[at] ^= 1 << dice.random_range(0..8);
        std::fs::write(&path, &damaged)?;
        let member = scenario.fleet.start_worker("damaged", &["--model", &bundle]);
        let mut child = member?;
        let status = child.wait(Duration::from_secs(60)).await?;
        anyhow::ensure!(!status.success(), "byte {at} of {} was flipped unnoticed", path.display());
        anyhow::ensure!(child.output().contains("error:"), "{}", child.output());
        std::fs::write(&path, &whole)?;
        refused += 1;
    }
    anyhow::ensure!(scenario.broker.depth(&scenario.lane()).await?.messages == 1, "the job was touched");
    wrong_bundle(&scenario, &bundle).await?;
    Ok(Figures::default().with("files", refused))
}

/// A run of the demo model meets a worker with another bundle: nothing is inferred, the job waits for the right one.
async fn wrong_bundle(scenario: &Scenario, bundle: &str) -> anyhow::Result<()> {
    scenario.drain(&scenario.lane()).await?;
    let other = scenario.worker("other-bundle", &["--model", bundle])?;
    other.wait_until_ready().await?;
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/demo-model");
    let run = scenario.caption("run", &["--model", demo])?;
    wait_for("the refusal", Duration::from_secs(60), || async {
        other.metric("captionfleet_worker_retries_total{reason=\"bundle_mismatch\"}").await > 0.0
    })
    .await?;
    anyhow::ensure!(other.metric("captionfleet_worker_stage_seconds_count{stage=\"vision\"}").await == 0.0);
    drop(other);
    let _right = scenario.worker("right-bundle", &[])?;
    scenario.finish(run, Duration::from_secs(120)).await?;
    scenario.judge(&Expected::default()).await
}

/// Case 18: the model of a fleet is changed while runs of both models are under way. No job of either has failed because it met the
/// other's workers, however often that was.
pub(super) async fn two_bundles(_: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("bundles", Corpus::shared().await?, 12).await?;
    let bundle = scenario.fleet.folder().join("bundle").display().to_string();
    worker(["random-bundle", "--small", "--out", &bundle]).await?.success()?;
    let mismatches = "captionfleet_worker_retries_total{reason=\"bundle_mismatch\"}";
    let mut old = scenario.worker("old-bundle", &[])?;
    let mut arguments = scenario.caption_arguments(&["--model", &bundle, "--job-size", "4"]);
    let archive = arguments.iter_mut().find(|argument| **argument == scenario.archive());
    *archive.context("an archive")? = scenario.fleet.s3_uri("new-archive");
    let for_new = scenario.fleet.start_dispatcher("run-of-new", arguments)?;
    wait_for("jobs of the new model to go round", LIMIT, || async { old.metric(mismatches).await >= 6.0 })
        .await?;
    let new = scenario.worker("new-bundle", &["--model", &bundle])?;
    new.wait_until_ready().await?;
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker/demo-model");
    let for_old = scenario.caption("run-of-old", &["--model", demo, "--job-size", "1"])?;
    scenario.finish(for_new, LIMIT).await?;
    scenario.finish(for_old, LIMIT).await?;
    let met = old.metric(mismatches).await + new.metric(mismatches).await;
    old.child.signal("TERM");
    old.child.wait(LIMIT).await?;
    scenario.judge(&Expected::default()).await?;
    let new_rows = Scenario::rows_of(scenario.fleet.objects("new-archive").await?.as_ref()).await?;
    let old_rows = scenario.rows().await?;
    anyhow::ensure!(new_rows.len() == scenario.files.len(), "{} rows of the new model", new_rows.len());
    for row in new_rows.iter().chain(&old_rows) {
        anyhow::ensure!(row.status == Status::Ok && row.attempts == 1, "{row:?}");
    }
    anyhow::ensure!(new_rows[0].bundle != old_rows[0].bundle, "both runs had one model");
    Ok(Figures::default().with("items", new_rows.len() + old_rows.len()).with("passed on", met))
}

/// Case 27: jobs of random size and length for a long time: memory does not grow.
pub(super) async fn memory(scale: Scale) -> anyhow::Result<Figures> {
    let scenario = Scenario::new("memory", Corpus::shared().await?, 200).await?;
    let mut dice = StdRng::seed_from_u64(scale.seed);
    let member = scenario.worker("worker", &["--slots", "16"])?;
    member.wait_until_ready().await?;
    let (started, mut samples, mut items, mut jobs) = (Instant::now(), Vec::new(), 0_usize, 0_u32);
    while started.elapsed() < scale.memory {
        let first = dice.random_range(0..scenario.files.len() - 1);
        let last = dice.random_range(first + 1..=scenario.files.len());
        let mut job = scenario.job(&format!("job-{jobs}"), &scenario.files[first..last]).await?;
        let captionfleet_proto::job::JobKind::Caption(caption) = &mut job.kind else {
            anyhow::bail!("a caption job");
        };
        caption.max_tokens = Some(dice.random_range(1..64));
        items += last - first;
        jobs += 1;
        scenario.publish(&job).await?;
        wait_for("the job", Duration::from_secs(120), || async {
            member.metric("captionfleet_worker_jobs_total{kind=\"caption\",outcome=\"done\"}").await
                >= f64::from(jobs)
        })
        .await?;
        samples.push((started.elapsed().as_secs_f64() / 60.0, member.resident_mib() as f64));
    }
    // The first third warms caches up.
    let steady = &samples[samples.len() / 3..];
    let slope = slope_of(steady);
    let told: Vec<_> = samples.iter().step_by(samples.len().div_ceil(20).max(1)).collect();
    anyhow::ensure!(slope < 2.0, "memory grows by {slope:.2} MiB a minute: {told:?}");
    Ok(Figures::default()
        .with("minutes", started.elapsed().as_secs() / 60)
        .with("items", items)
        .with("slope", format!("{slope:.3} MiB/min"))
        .with("resident", format!("{} MiB", member.resident_mib())))
}

/// Least squares.
fn slope_of(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let covariance: f64 = samples.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = samples.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}
