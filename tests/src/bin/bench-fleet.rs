//! What the service costs beside the bare engine.
//!
//! `cargo run --release -p captionfleet-tests --bin bench-fleet -- [PICTURES]`
//!
//! Draws pictures into a bucket, captions and embeds them once in memory (`worker bench`) and once over RabbitMQ and S3
//! (`dispatcher caption` and one worker), and prints the ratio, where a picture's time goes, and the starvation ratio beside
//! what the operating system saw of the device thread. The network gets one thread, so that a machine of two cores has one
//! for everything else, as a host has beside its GPU.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use captionfleet_tests::fleet::{Fleet, http_get};
use captionfleet_tests::sandbox::{Services, free_port};
use clap::Parser;

/// Slots of the engine in both runs.
const SLOTS: &str = "16";
/// Stages in the order of a picture's way.
const STAGES: [&str; 6] = ["fetch", "image_decode", "vision", "prefill", "decode", "write"];

/// Measures what the service costs beside the bare engine.
#[derive(Debug, Parser)]
struct Cli {
    /// How many pictures are captioned each time
    #[arg(default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pictures: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = Cli::parse().pictures as usize;
    let root = tempfile::Builder::new().prefix("captionfleet-bench-").tempdir()?;
    let services = Services::start(root.path()).await?;
    let measured = measure(&services, count).await;
    services.stop().await;
    measured
}

#[allow(clippy::print_stdout)]
async fn measure(services: &Services, count: usize) -> anyhow::Result<()> {
    let fleet = Fleet::over(services, "bench")?;
    let folder = services.bucket_folder().join(fleet.queue_prefix()).join("pictures");
    let number = count.to_string();
    fleet
        .worker(["scenes", "--count", number.as_str(), "--format", "jpeg", "--out", path(&folder)?])
        .await?
        .success()?;

    let before = bare(&fleet, &folder, &number).await?;
    let served = served(&fleet, count).await?;
    let after = bare(&fleet, &folder, &number).await?;
    let engine = f64::midpoint(before, after);
    println!("pictures                     {count}");
    println!("bare engine                  {engine:.2} pictures/s ({before:.2} before, {after:.2} after)");
    println!("RabbitMQ and S3              {:.2} pictures/s", served.rate);
    println!("ratio                        {:.3}", served.rate / engine);
    println!("starvation, as reported      {:.4}", served.starvation);
    println!("device busy, as reported     {:.4}", served.busy);
    println!("device thread, as seen by the operating system: {:.4} of the time on a core", served.on_core);
    println!("\nstage          ms per picture");
    for (stage, milliseconds) in &served.stages {
        println!("{stage:<14} {milliseconds:8.3}");
    }
    Ok(())
}

/// Pictures per second of the engine alone, pictures in memory.
async fn bare(fleet: &Fleet, folder: &Path, count: &str) -> anyhow::Result<f64> {
    let arguments = ["bench", "--items-only", "--json", "--threads", "1", "--slots-list", SLOTS];
    let pictures = ["--pictures", path(folder)?, "--count", count, "--max-tokens", "64"];
    let report = fleet.worker(arguments.into_iter().chain(pictures)).await?.success()?.json()?;
    report["items"][0]["pictures_per_second"].as_f64().context("the bench tells pictures per second")
}

struct Served {
    rate: f64,
    starvation: f64,
    busy: f64,
    on_core: f64,
    stages: Vec<(&'static str, f64)>,
}

async fn served(fleet: &Fleet, count: usize) -> anyhow::Result<Served> {
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let worker = fleet.start_worker_at(&address, &["--threads", "1", "--slots", SLOTS])?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !http_get(port, "/readyz").await.is_some_and(|(status, _)| status.contains(" 200 ")) {
        anyhow::ensure!(Instant::now() < deadline, "the worker is not ready:\n{}", worker.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ticks = device_ticks(worker.pid())?;
    let since = Instant::now();
    let source = format!("{}/", fleet.s3_uri("pictures"));
    let archive = fleet.s3_uri("archive");
    let mut arguments =
        vec!["caption".to_owned(), source, "--archive".to_owned(), archive, "--json".to_owned()];
    arguments.extend(fleet.service_options());
    let ran = fleet.dispatcher(&arguments).await?.success()?;
    let seconds = since.elapsed().as_secs_f64();
    let on_core = (device_ticks(worker.pid())? - ticks) / seconds;
    let (_, text) = http_get(port, "/metrics").await.context("the worker shows its metrics")?;
    let read = |name: &str| metric(&text, &format!("captionfleet_worker_{name}"));
    let done = read("items_total{code=\"\",status=\"ok\"}");
    anyhow::ensure!(done == count as f64, "{done} of {count} pictures were captioned:\n{}", ran.stdout);
    let stages = STAGES
        .map(|stage| {
            let sum = read(&format!("stage_seconds_sum{{stage=\"{stage}\"}}"));
            (stage, 1000.0 * sum / count as f64)
        })
        .to_vec();
    Ok(Served {
        rate: count as f64 / seconds,
        starvation: read("device_starved_seconds_total") / seconds,
        busy: read("device_busy_seconds_total") / seconds,
        on_core,
        stages,
    })
}

/// The value of a sample; 0 if there is none.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or(0.0)
}

/// Seconds that the thread named `device` has spent on a core.
fn device_ticks(pid: u32) -> anyhow::Result<f64> {
    for task in procfs::process::Process::new(pid as i32)?.tasks()? {
        let stat = task?.stat()?;
        if stat.comm == "device" {
            return Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64);
        }
    }
    anyhow::bail!("process {pid} has no device thread")
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
