//! `dispatcher plan`: what `caption` would do.

use super::prepare::prepare;
use crate::config::args::PlanArgs;
use crate::config::settings::WorkSettings;
use crate::exit::Ended;
use crate::output;
use crate::progress::Display;
use captionfleet_proto::job::RunId;
use captionfleet_proto::storage::Stores;
use serde::Serialize;

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    archive: String,
    items: u64,
    duplicates: u64,
    already_done: u64,
    already_failed: u64,
    continued_runs: Vec<RunId>,
    continued_jobs: u64,
    items_to_do: u64,
    jobs_to_do: u64,
}

/// Runs the command.
pub async fn run(args: PlanArgs) -> anyhow::Result<Ended> {
    let settings = WorkSettings::new(&args.work)?;
    let stores = Stores::new(settings.fleet.storage.clone());
    let plan = prepare(&settings, &stores, Display::choose(args.output.quiet)).await?.plan;
    let answer = Answer {
        archive: settings.archive.to_string(),
        items: plan.listed,
        duplicates: plan.duplicates,
        already_done: plan.already_done,
        already_failed: plan.already_failed,
        continued_runs: plan.continued.iter().map(|run| run.manifest.run.clone()).collect(),
        continued_jobs: plan.continued.iter().map(|run| run.jobs.len() as u64).sum(),
        items_to_do: plan.items(),
        jobs_to_do: plan.jobs(),
    };
    if args.output.json {
        output::json(&answer)?;
        return Ok(Ended::Well);
    }
    output::line(format!("items          {}", answer.items));
    if answer.duplicates > 0 {
        output::line(format!("given twice    {}", answer.duplicates));
    }
    output::line(format!("already ok     {}", answer.already_done));
    output::line(format!("failed before  {}", answer.already_failed));
    output::line(format!(
        "to do          {} in {}",
        answer.items_to_do,
        output::counted(answer.jobs_to_do, "job")
    ));
    for run in &answer.continued_runs {
        output::line(format!("continues run  {run}"));
    }
    Ok(Ended::Well)
}
