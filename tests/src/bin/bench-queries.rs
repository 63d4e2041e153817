//! How long a search takes while a bulk run keeps every slot of the worker busy.
//!
//! `cargo run --release -p captionfleet-tests --bin bench-queries -- [PICTURES] [QUERIES]`
//!
//! Draws pictures into a bucket and captions half of them over RabbitMQ and S3. Texts that nobody asked before are then searched
//! by through `dispatcher serve`, one after the other: while nothing else is done, and while the worker captions the other half;
//! and once more those of the first time, whose embeddings the service keeps.
//! A time is that of a whole request: HTTP, the search job to the worker and back, the lookup, the hits' rows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use captionfleet_tests::faults::{Member, wait_for};
use captionfleet_tests::fleet::{Fleet, http_get, service_port};
use captionfleet_tests::sandbox::{Services, free_port};
use clap::Parser;

const PATIENCE: Duration = Duration::from_secs(120);

/// Measures searches beside a bulk run.
#[derive(Debug, Parser)]
struct Cli {
    /// How many pictures there are; half of them are captioned before anything is searched for
    #[arg(default_value_t = 6000, value_parser = clap::value_parser!(u32).range(200..))]
    pictures: u32,
    /// How many searches are measured, without and with the bulk run
    #[arg(default_value_t = 100, value_parser = clap::value_parser!(u32).range(100..))]
    queries: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let root = tempfile::Builder::new().prefix("captionfleet-bench-").tempdir()?;
    let services = Services::start(root.path()).await?;
    let measured = measure(&services, &cli).await;
    services.stop().await;
    measured
}

#[allow(clippy::print_stdout)]
async fn measure(services: &Services, cli: &Cli) -> anyhow::Result<()> {
    let fleet = Fleet::over(services, "queries")?;
    let half = (cli.pictures / 2).to_string();
    for (folder, seed) in [("first", "1"), ("second", "2")] {
        let folder = services.bucket_folder().join(fleet.queue_prefix()).join(folder);
        let fixed = ["scenes", "--count", half.as_str(), "--seed", seed, "--format", "jpeg", "--out"];
        fleet.worker(fixed.into_iter().chain([path(&folder)?])).await?.success()?;
    }
    let port = free_port()?;
    let worker = fleet.start_worker_at(&format!("127.0.0.1:{port}"), &["--threads", "1", "--slots", "16"])?;
    let worker = Member::new(worker, port);
    caption(&fleet, "first").await?;

    let fixed = ["--listen", "127.0.0.1:0", "--rate", "1000000", "--archive"].map(str::to_owned);
    let options = [fleet.s3_uri("archive")].into_iter().chain(fleet.service_options());
    let service = fleet.start_service("service", fixed.into_iter().chain(options))?;
    let at = service_port(&service).await?;
    search(at, "warm up").await?;

    let idle = times(at, "idle", cli.queries).await?;
    // Their embeddings are kept: what is left is the service's own part.
    let again = times(at, "idle", cli.queries).await?;
    let bulk = async {
        caption(&fleet, "second").await?;
        anyhow::bail!("the bulk run ended before all searches were measured; take more pictures");
    };
    let loaded = async {
        let rows = "captionfleet_worker_items_total{code=\"\",status=\"ok\"}";
        let begun = worker.metric(rows).await;
        wait_for("the bulk run to begin", PATIENCE, || async { worker.metric(rows).await > begun }).await?;
        times(at, "loaded", cli.queries).await
    };
    let loaded = tokio::select! {
        loaded = loaded => loaded?,
        ended = bulk => return ended,
    };
    println!("{} searches each, milliseconds", cli.queries);
    println!("{:<22} {:>8} {:>8} {:>8}", "", "p50", "p99", "most");
    for (name, times) in
        [("nothing else", idle), ("the same texts again", again), ("beside the bulk run", loaded)]
    {
        println!(
            "{name:<22} {:>8.2} {:>8.2} {:>8.2}",
            rank(&times, 0.5),
            rank(&times, 0.99),
            rank(&times, 1.0)
        );
    }
    Ok(())
}

async fn caption(fleet: &Fleet, folder: &str) -> anyhow::Result<()> {
    let source = format!("{}/", fleet.s3_uri(folder));
    let fixed =
        ["caption".to_owned(), source, "--archive".to_owned(), fleet.s3_uri("archive"), "--json".to_owned()];
    fleet.dispatcher(fixed.into_iter().chain(fleet.service_options())).await?.success()?;
    Ok(())
}

/// Milliseconds of each of so many searches, in ascending order.
async fn times(at: u16, name: &str, queries: u32) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(queries as usize);
    for number in 0..queries {
        let begun = Instant::now();
        search(at, &format!("a red star, {name} {number}")).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

async fn search(at: u16, text: &str) -> anyhow::Result<()> {
    let text = text.replace(' ', "+");
    let answer = http_get(at, &format!("/api/v1/search?text={text}&limit=10")).await;
    let (status, body) = answer.context("the service answers")?;
    anyhow::ensure!(status.contains(" 200 "), "{status}: {body}");
    Ok(())
}

/// The least time that the given share of all does not exceed.
fn rank(ascending: &[f64], share: f64) -> f64 {
    let at = (ascending.len() as f64 * share).ceil() as usize;
    ascending[at.clamp(1, ascending.len()) - 1]
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
