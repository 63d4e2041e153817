//! `dispatcher plan`: what `caption` would do.

use crate::config::args::PlanArgs;
use crate::config::settings::WorkSettings;
use crate::exit::Ended;
use crate::output;
use crate::plan::Plan;
use crate::prepare::prepare;
use crate::progress::Display;
use crate::survey;
use captionfleet_proto::job::{RunId, Sampling};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    videos: Option<Videos>,
}

/// What is to be done about videos.
#[derive(Debug, Serialize)]
struct Videos {
    /// Videos that no earlier run has begun.
    new: u64,
    /// Their hours, those of unknown length left out.
    hours: f64,
    /// Frames to look at, about.
    frames: u64,
    /// Those that will be captioned, going by a sample; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames_kept: Option<u64>,
}

/// Runs the command.
pub async fn run(args: PlanArgs) -> anyhow::Result<Ended> {
    let settings = WorkSettings::new(&args.work)?;
    let stores = Stores::new(settings.fleet.storage.clone());
    let display = Display::choose(args.output.quiet);
    let plan = prepare(&settings, &stores, display).await?.plan;
    let videos = videos(&plan, &settings.wish.sample, &stores, display).await;
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
        videos,
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
    if let Some(videos) = &answer.videos {
        let kept = videos.frames_kept.map_or("in a bucket, not sampled".to_owned(), |kept| {
            format!("about {kept} to caption, by a sample")
        });
        output::line(format!("videos         {} new, {:.1} h", videos.new, videos.hours));
        output::line(format!("frames         about {}, {kept}", videos.frames));
    }
    for run in &answer.continued_runs {
        output::line(format!("continues run  {run}"));
    }
    Ok(Ended::Well)
}

async fn videos(plan: &Plan, sampling: &Sampling, stores: &Stores, display: Display) -> Option<Videos> {
    let frames = plan.frames();
    if frames == 0 {
        return None;
    }
    let new: Vec<_> = plan.new_videos().map(|(uri, length)| (uri.clone(), length.unwrap_or(0))).collect();
    let share = {
        let _busy = display.busy("looking into some videos");
        survey::kept_share(&new, sampling, stores).await
    };
    Some(Videos {
        new: new.len() as u64,
        hours: new.iter().map(|(_, length)| length).sum::<u64>() as f64 / 3.6e6,
        frames,
        frames_kept: share.map(|share| (share * frames as f64).round() as u64),
    })
}
