//! `dispatcher plan`: what `caption` would do.

use crate::config::settings::WorkSettings;
use crate::config::work_args::PlanArgs;
use crate::exit::Ended;
use crate::output;
use crate::plan::Plan;
use crate::prepare::{Prepared, prepare};
use crate::progress::{Display, duration};
use crate::rates::{self, Measured};
use crate::scale::estimate::{Amount, Needs, Rate, needs};
use crate::survey;
use bytesize::ByteSize;
use captionfleet_proto::job::{RunId, Sampling};
use captionfleet_proto::storage::Stores;
use serde::Serialize;
use std::collections::HashSet;

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
    bytes_to_do: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    videos: Option<Videos>,
    /// Absent if nothing tells how fast workers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
}

/// What the work will take.
#[derive(Debug, Serialize)]
struct Estimate {
    /// The run whose rows told the rate; absent if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_in: Option<RunId>,
    /// What a picture or captioned frame takes.
    rate: Rate,
    /// Seconds that devices will compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_seconds: Option<f64>,
    /// By size of the fleet.
    fleets: Vec<Needs>,
}

/// What is to be done about videos.
#[derive(Debug, Serialize)]
struct Videos {
    /// Videos that no earlier run has begun.
    new: u64,
    /// Videos that an earlier run has begun, and of which something is still to do.
    begun: u64,
    /// Hours of them that are to do, those of unknown length left out.
    hours: f64,
    /// Frames to look at, about; corrected by the sample, if there is one.
    frames: u64,
    /// Those that will be captioned, going by a sample; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames_kept: Option<u64>,
    /// Seconds that decoding them will take a worker that is as fast as this machine; absent without a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    decoding_seconds: Option<f64>,
}

/// Runs the command.
pub async fn run(args: PlanArgs) -> anyhow::Result<Ended> {
    let settings = WorkSettings::new(&args.work)?;
    let stores = Stores::new(settings.fleet.storage.clone());
    let display = Display::choose(args.output.quiet);
    let prepared = prepare(&settings, &stores, display).await?;
    let videos = videos(&prepared.plan, &settings.wish.sample, &stores, display).await;
    let estimate = estimate(&args, &prepared, videos.as_ref()).await?;
    let plan = prepared.plan;
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
        bytes_to_do: plan.bytes(),
        videos,
        estimate,
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
        "to do          {} in {}{}, {}",
        answer.items_to_do,
        output::counted(answer.jobs_to_do, "job"),
        if answer.videos.is_some() { " (long videos in pieces)" } else { "" },
        ByteSize(answer.bytes_to_do)
    ));
    if let Some(videos) = &answer.videos {
        let kept = videos.frames_kept.map_or("no sample could be taken".to_owned(), |kept| {
            format!("about {kept} to caption, by a sample")
        });
        let begun = match videos.begun {
            0 => String::new(),
            begun => format!(", {begun} begun"),
        };
        output::line(format!("videos         {} new{begun}, {:.1} h", videos.new, videos.hours));
        output::line(format!("frames         about {}, {kept}", videos.frames));
        if let Some(seconds) = videos.decoding_seconds {
            output::line(format!("decoding       {} of a worker like this machine", duration(seconds)));
        }
    }
    for run in &answer.continued_runs {
        output::line(format!("continues run  {run}"));
    }
    match &answer.estimate {
        Some(estimate) => table(estimate),
        None if answer.jobs_to_do > 0 => display.remark(
            "no row of this archive tells how long a picture takes: caption some first, or give --seconds-per-item \
             (`worker bench` measures it)",
        ),
        None => {}
    }
    Ok(Ended::Well)
}

/// What fleets of the sizes asked for need; `None` without work, or if nothing tells how fast workers are.
async fn estimate(
    args: &PlanArgs,
    prepared: &Prepared,
    videos: Option<&Videos>,
) -> anyhow::Result<Option<Estimate>> {
    let plan = &prepared.plan;
    if plan.is_empty() {
        return Ok(None);
    }
    let (rate, measured_in) = match args.seconds_per_item {
        Some(worker_seconds) => (Rate { device_seconds: None, worker_seconds }, None),
        None => match rates::measured(&*prepared.archive, &prepared.wish).await? {
            Some(Measured { rate, run }) => (rate, Some(run)),
            None => return Ok(None),
        },
    };
    let frames = videos.map_or(0, |videos| videos.frames_kept.unwrap_or(videos.frames));
    let film_seconds = videos.and_then(|videos| videos.decoding_seconds).unwrap_or(0.0);
    let amount = Amount { looks: plan.pictures() + frames, film_seconds, jobs: plan.jobs() };
    let price = args.work.price.price_per_hour;
    Ok(Some(Estimate {
        measured_in,
        rate,
        device_seconds: rate.device_seconds.map(|seconds| seconds * amount.looks as f64),
        fleets: args.workers.iter().map(|workers| needs(amount, rate, *workers, price)).collect(),
    }))
}

fn table(estimate: &Estimate) {
    let each = format!("{:.4} s of a worker each", estimate.rate.worker_seconds);
    let device =
        estimate.device_seconds.map_or(String::new(), |seconds| format!("{seconds:.1} device seconds, "));
    let from = estimate.measured_in.as_ref().map_or("as given".to_owned(), |run| format!("as in run {run}"));
    output::line(format!("estimate       {device}{each}, {from}"));
    output::line("workers        time  worker hours      cost");
    for Needs { workers, seconds, worker_hours, cost } in &estimate.fleets {
        let cost = cost.map_or("-".to_owned(), |cost| format!("{cost:.4}"));
        output::line(format!("{workers:<8} {:>10}  {worker_hours:>12.4}  {cost:>8}", duration(*seconds)));
    }
}

async fn videos(plan: &Plan, sampling: &Sampling, stores: &Stores, display: Display) -> Option<Videos> {
    let frames = plan.frames();
    if frames == 0 {
        return None;
    }
    let stretches: Vec<_> = plan.stretches().collect();
    let sample = {
        let _busy = display.busy("looking into some videos");
        survey::sample(&stretches, sampling, stores).await
    };
    let frames = frames as f64 * sample.map_or(1.0, |sample| sample.density);
    let uris: HashSet<_> = stretches.iter().map(|stretch| stretch.uri).collect();
    let new = plan.new_videos();
    Some(Videos {
        new,
        begun: (uris.len() as u64).saturating_sub(new),
        hours: stretches.iter().map(|stretch| stretch.length_ms).sum::<u64>() as f64 / 3.6e6,
        frames: frames.round() as u64,
        frames_kept: sample.map(|sample| (sample.kept * frames).round() as u64),
        decoding_seconds: sample.map(|sample| sample.seconds_per_frame * frames),
    })
}
