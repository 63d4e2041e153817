//! Load tests: a million items, many workers, a small run beside a huge one.
//!
//! `cargo run --release -p captionfleet-tests --bin load -- --items 1000000`
//!
//! Starts a private RabbitMQ node and an S3 server with made-up pictures; workers have the null engine, which looks at nothing.
//! Prints tables, or one JSON document with `--json`.

use captionfleet_tests::load::{
    Burst, Devices, Fairness, Ground, Load, Ran, Scaling, Simulation, Trouble, fairness, run, scaling,
    simulation,
};
use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Numbers of workers that are measured, as far as `--most-workers` allows.
const STEPS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 100];

/// When items come in `simulate`, in seconds, and how many: the second burst meets what the first left, the third a fleet at rest,
/// the fourth comes while the third has hardly begun.
const BURSTS: [(u64, u64); 4] = [(0, 1600), (10, 1200), (60, 2400), (65, 400)];

/// The same for workers that come late, of which one is lost while the first burst is worked on.
const ROUGH_BURSTS: [(u64, u64); 2] = [(0, 3200), (70, 1600)];
/// Machines that take a quarter of a minute to come.
const TROUBLE: Trouble = Trouble { provision: 15, kill_at: 35 };

/// Puts the programs under load, with workers that look at nothing.
#[derive(Debug, Parser)]
struct Options {
    /// What is measured; may be given several times, all otherwise
    #[arg(long, value_enum)]
    case: Vec<Case>,

    /// Items of the run
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(64..))]
    items: u64,

    /// Workers of the run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,

    /// Rows of the run get embeddings of noise: 16 KiB more an item
    #[arg(long)]
    embed: bool,

    /// How RabbitMQ's PerfTest is started, such as "java -jar perf-test.jar"; without it the client library alone is the peer
    #[arg(long, value_name = "COMMAND")]
    perf_test: Option<String>,

    /// Most workers of `scaling`
    #[arg(long, default_value_t = 100)]
    most_workers: usize,

    /// Items of the huge run of `fairness`
    #[arg(long, default_value_t = 100_000)]
    huge: u64,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// One large run: publishing, memory, processor time.
    Run,
    /// Throughput by number of workers, each taking 0.1 s for an item.
    Scaling,
    /// A run of 100 items beside a huge one, four workers taking 0.01 s for an item.
    Fairness,
    /// Bursts through four workers taking 0.05 s for an item, beside what `dispatcher simulate` says of them: workers that are
    /// ready, and workers that come late, of which one is killed and replaced.
    Simulate,
}

#[derive(Debug, Default, Serialize)]
struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Ran>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<Scaling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fairness: Option<Fairness>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    simulations: Vec<Simulation>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let root = tempfile::Builder::new().prefix("captionfleet-load-").tempdir()?;
    let ground = Ground::start(root.path()).await?;
    let measured = measure(&ground, &options).await;
    ground.stop().await;
    let measured = measured?;
    if options.json {
        say(&serde_json::to_string_pretty(&measured)?);
    }
    Ok(())
}

async fn measure(ground: &Ground, options: &Options) -> anyhow::Result<Measured> {
    let wanted = |case| options.case.is_empty() || options.case.contains(&case);
    // Tables as they grow: the largest run takes its time.
    let tell = |table: &dyn std::fmt::Display| {
        if !options.json {
            say(&table.to_string());
        }
    };
    let mut measured = Measured::default();
    if wanted(Case::Run) {
        let load = Load {
            items: options.items,
            workers: options.workers.into(),
            job_size: 64,
            embed: options.embed,
            perf_test: options.perf_test.clone(),
        };
        tell(measured.run.insert(run(ground, &load).await?));
    }
    if wanted(Case::Scaling) {
        let steps: Vec<usize> = STEPS.into_iter().filter(|step| *step <= options.most_workers).collect();
        tell(measured.scaling.insert(scaling(ground, &steps, 0.1, 20.0).await?));
    }
    if wanted(Case::Fairness) {
        tell(measured.fairness.insert(fairness(ground, (100, options.huge), 4, 0.01).await?));
    }
    if wanted(Case::Simulate) {
        for (bursts, job_size, trouble) in [(&BURSTS[..], 16, None), (&ROUGH_BURSTS, 64, Some(TROUBLE))] {
            let bursts: Vec<Burst> =
                bursts.iter().map(|(at, items)| Burst { at: *at, items: *items }).collect();
            let devices = Devices { workers: 4, seconds_per_item: 0.05, job_size };
            let both = simulation(ground, &bursts, devices, trouble).await?;
            tell(&both);
            measured.simulations.push(both);
        }
    }
    Ok(measured)
}

/// The tables are the result: they go to standard output.
#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}
