//! The long form of the fault suite: `soak --seed N --minutes M [--case NAME]`.
//!
//! Starts the services, runs the cases again and again with one seed after the other until the time is over (each at
//! least once), and prints a table of cases, outcomes and figures. The exit code is 0 only if all is well.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use captionfleet_tests::faults::{Case, Scale, all};
use captionfleet_tests::sandbox::with_services;
use clap::Parser;
use tokio::process::Command;

/// What is watched for a shorter time than this says nothing about growth.
const LEAST_MEMORY: Duration = Duration::from_secs(600);

/// Set by the first process for the second, which runs beside the services.
const INSIDE: &str = "CAPTIONFLEET_TEST_AMQP";

/// Breaks the fleet in every way that the suite knows, for as long as you like.
#[derive(Debug, Parser)]
struct Options {
    /// Decides moments, victims and which requests are met
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// How long to go on; every case is run once in any case, which takes an hour
    #[arg(long, default_value_t = 60)]
    minutes: u64,

    /// Only this case; may be given several times
    #[arg(long)]
    case: Vec<String>,

    /// The sizes of the short form, as the tests run it
    #[arg(long)]
    short: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let ended = if std::env::var_os(INSIDE).is_some() { soak(&options).await } else { outside().await };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs this very program beside the services.
async fn outside() -> anyhow::Result<ExitCode> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    let well = with_services(command).await?.is_some_and(|status| status.success());
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn soak(options: &Options) -> anyhow::Result<ExitCode> {
    let cases: Vec<Case> = all().into_iter().filter(|case| is_wanted(case, options)).collect();
    anyhow::ensure!(!cases.is_empty(), "there is no such case; those there are: {}", names().join(", "));
    let (started, limit) = (Instant::now(), Duration::from_secs(options.minutes * 60));
    // The memory case works for half of the time, half an hour at most.
    let memory = (limit / 2).clamp(LEAST_MEMORY, Duration::from_secs(1800));
    let mut failed = 0;
    say("| case | seed | outcome | seconds | figures |\n| --- | --- | --- | --- | --- |");
    for seed in options.seed.. {
        for case in &cases {
            if seed > options.seed && started.elapsed() >= limit {
                break;
            }
            let since = Instant::now();
            let outcome = case.run(Scale { seed, long: !options.short, memory }).await;
            let (word, figures) = match outcome {
                Ok(figures) => ("ok", figures.to_string()),
                Err(error) => {
                    failed += 1;
                    ("FAILED", format!("{error:#}").replace('\n', " ⏎ "))
                }
            };
            let (number, name, seconds) = (case.number, case.name, since.elapsed().as_secs());
            say(&format!("| {number} {name} | {seed} | {word} | {seconds} | {figures} |"));
        }
        if started.elapsed() >= limit {
            break;
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_wanted(case: &Case, options: &Options) -> bool {
    let asked = options.case.iter().any(|name| name == case.name);
    asked || options.case.is_empty() && !(options.short && case.long_only)
}

fn names() -> Vec<&'static str> {
    all().iter().map(|case| case.name).collect()
}

/// The table is the result: it goes to standard output.
#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}
