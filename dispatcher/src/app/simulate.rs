//! `dispatcher simulate`: what a fleet that follows its queue would cost.

use crate::config::UsageError;
use crate::config::simulate_args::SimulateArgs;
use crate::exit::Ended;
use crate::output;
use crate::progress::duration;
use crate::scale::rule::Rule;
use crate::scale::simulate::arrivals::{self, Arrival};
use crate::scale::simulate::{Fleet, Outcome, play};
use anyhow::Context as _;
use serde::Serialize;

/// Each job is kept in memory.
const MOST_JOBS: u64 = 10_000_000;

/// One simulation.
#[derive(Debug, Serialize)]
struct Played {
    /// The target, where a rule scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_seconds: Option<f64>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs the command.
pub fn run(args: &SimulateArgs) -> anyhow::Result<Ended> {
    let arrivals = arrivals(args)?;
    let jobs =
        arrivals.iter().map(|arrival| arrival.items.div_ceil(args.job_size)).fold(0, u64::saturating_add);
    if jobs > MOST_JOBS {
        let why = format!("{jobs} jobs are more than {MOST_JOBS}: choose a larger --job-size");
        return Err(UsageError::new(why).into());
    }
    let world = args.world();
    let fleets: Vec<(Option<f64>, Fleet)> = match args.fixed {
        Some(workers) => vec![(None, Fleet::Fixed { workers, cold: args.cold })],
        None => args
            .targets
            .iter()
            .map(|target| {
                (Some(*target), Fleet::Scaled(Rule { target_seconds: *target, most: args.max_workers }))
            })
            .collect(),
    };
    let mut played = Vec::new();
    for (target_seconds, fleet) in fleets {
        played.push(Played { target_seconds, outcome: play(&world, fleet, &arrivals, args.seed)? });
    }
    if args.output.json {
        output::json(&played)?;
    } else {
        table(args, &arrivals, &played);
    }
    Ok(Ended::Well)
}

fn arrivals(args: &SimulateArgs) -> anyhow::Result<Vec<Arrival>> {
    let Some(file) = &args.arrivals_file else { return Ok(args.arrivals.arrivals(args.items)) };
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
    arrivals::parse(&text).with_context(|| format!("{name} tells no arrivals"))
}

fn table(args: &SimulateArgs, arrivals: &[Arrival], played: &[Played]) {
    let items: u64 = arrivals.iter().map(|arrival| arrival.items).sum();
    let work = items as f64 * args.seconds_per_item;
    output::line(format!("{items} items, {:.1} device hours of work", work / 3600.0));
    output::line(
        "target   done after   wait p50    wait p95   GPU hours      cost  useful   wasted  interrupted  most",
    );
    for Played { target_seconds, outcome } in played {
        let target = target_seconds.map_or("fixed".to_owned(), |target| format!("{target:.0} s"));
        output::line(format!(
            "{target:<8} {:>10} {:>10}  {:>10}  {:>10.2} {:>9.2} {:>6.1} % {:>6.0} s  {:>11} {:>5}",
            duration(outcome.seconds as f64),
            duration(outcome.wait_p50 as f64),
            duration(outcome.wait_p95 as f64),
            outcome.gpu_hours,
            outcome.cost,
            100.0 * outcome.useful,
            outcome.wasted_seconds,
            outcome.interruptions,
            outcome.most_workers,
        ));
    }
}
