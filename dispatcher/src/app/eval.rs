//! `dispatcher eval`: a benchmark as an ordinary run, and what its answers are worth.

mod answers;

use super::caption::{Manner, submission_span, work};
use super::stopping;
use crate::adapter;
use crate::archive;
use crate::catalog::Source;
use crate::config::eval_args::EvalArgs;
use crate::config::settings::{self, WorkSettings, adapter_uri};
use crate::config::{FleetSettings, UsageError};
use crate::eval::{Benchmark, Case, Report, plot};
use crate::exit::Ended;
use crate::fleet::{Fleet, Model};
use crate::history;
use crate::output;
use crate::plan::{ContinuedRun, NewRun, Plan, cut};
use crate::planned_job::PlannedJob;
use crate::prepare::Prepared;
use crate::progress::Display;
use crate::wish::Wish;
use anyhow::Context as _;
use captionfleet_proto::job::{Job, JobId, JobItem, Prompt, Question, RunId, Sampling};
use captionfleet_proto::layout;
use captionfleet_proto::storage::{PutMode, Storage, StorageErrorKind, Stores};
use captionfleet_proto::uri::ItemUri;
use captionfleet_worker::demo_model;
use captionfleet_worker::telemetry::admin::AdminAddr;
use captionfleet_worker::telemetry::spans;
use captionfleet_world::{ExportOptions, FileFormat, Split, export};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Runs the command.
pub async fn run(args: EvalArgs) -> anyhow::Result<Ended> {
    let fleet_settings = FleetSettings::new(&args.fleet);
    let uri = settings::archive(&args.archive)?;
    if fleet_settings.is_remote() && uri.is_local() {
        return Err(UsageError::new("--archive: with --broker the archive must be an s3:// location").into());
    }
    let set = args.benchmark;
    if set == Benchmark::Demo {
        draw(&args)?;
    }
    let data = args.data.canonicalize().with_context(|| format!("--data {}", args.data.display()))?;
    let mut cases = limited(set.read(&data)?, args.limit);
    if args.own_prompt {
        for case in &mut cases {
            case.question.clone_from(&case.plain);
        }
    }
    let settings = WorkSettings {
        sources: vec![Source::Local(data)],
        archive: uri,
        wish: wish(&args, set),
        job_size: args.job_size as usize,
        pictures_only: false,
        retry_failed: false,
        thumbnails: false,
        adapter: args.adapter.as_deref().map(adapter_uri).transpose()?,
        fleet: fleet_settings,
    };
    let display = Display::choose(args.output.quiet || args.output.json);
    let stores = Arc::new(Stores::new(settings.fleet.storage.clone()));
    let archive = archive::open(&stores, &settings.archive).await?;
    let (run, bundle) = answer(&settings, &stores, &*archive, &cases, display).await?;
    let Some(run) = run else { return Ok(Ended::Incomplete) };
    let answers = answers::answers(&*archive, &run, &cases).await?;
    let report = Report::new(set, run.to_string(), bundle, &answers);
    write(&*archive, &run, &report).await?;
    if args.output.json {
        output::json(&report)?;
    } else {
        output::line(report.markdown());
        let place = settings.archive.to_string();
        output::line(format!("report: {}/evaluations/{run}/report.md", place.trim_end_matches('/')));
    }
    Ok(Ended::Well)
}

/// Draws held-out scenes where the demo's set is not there yet.
fn draw(args: &EvalArgs) -> anyhow::Result<()> {
    if args.data.join("pictures.jsonl").exists() {
        return Ok(());
    }
    let options = ExportOptions {
        count: args.scenes as usize,
        seed: args.seed,
        split: Split::HeldOut,
        format: FileFormat::Png,
        distinct: true,
        new_share: 0.0,
    };
    let folder = args.data.join("pictures");
    std::fs::create_dir_all(&args.data)
        .and_then(|()| export(&options, &folder))
        .with_context(|| format!("--data {}: the scenes cannot be drawn", args.data.display()))?;
    Ok(())
}

/// The cases of the first pictures.
fn limited(cases: Vec<Case>, limit: Option<u32>) -> Vec<Case> {
    let Some(limit) = limit else { return cases };
    let mut pictures: HashSet<PathBuf> = HashSet::new();
    let mut kept = |case: &Case| {
        let room = pictures.len() < limit as usize;
        pictures.contains(&case.picture) || (room && pictures.insert(case.picture.clone()))
    };
    cases.into_iter().filter(|case| kept(case)).collect()
}

fn wish(args: &EvalArgs, set: Benchmark) -> Wish {
    let template = set.template().filter(|_| !args.own_prompt).map(str::to_owned);
    let captions = set == Benchmark::Coco;
    Wish {
        prompt: if captions {
            Prompt::Caption
        } else {
            Prompt::Questions { questions: Vec::new(), template }
        },
        adapter: None,
        max_tokens: (!captions).then_some(args.max_tokens),
        embed: false,
        bundle: None,
        sample: Sampling::default(),
        thumbnails: false,
    }
}

/// Runs what the run of these cases still owes; its name, unless it was interrupted, and the bundle that serves.
async fn answer(
    settings: &WorkSettings,
    stores: &Arc<Stores>,
    archive: &dyn Storage,
    cases: &[Case],
    display: Display,
) -> anyhow::Result<(Option<RunId>, Option<String>)> {
    let model = if settings.fleet.is_remote() && settings.fleet.model.is_none() {
        None
    } else {
        Some(Model::resolve(&settings.fleet, stores).await?)
    };
    if model.as_ref().is_some_and(|model| model.is_demo) {
        display.remark(demo_model::NOTICE);
    }
    let mut wish = settings.wish.clone();
    if let Some(uri) = &settings.adapter {
        wish.adapter = Some(adapter::resolve(stores, uri).await?);
    }
    wish.bundle = model.as_ref().map(Model::id);
    let items = items(cases)?;
    let run = run_id(&wish, &items)?;
    let plan = plan(archive, &run, &wish, items, settings.job_size).await?;
    let bundle = wish.bundle.clone();
    if plan.is_empty() {
        display.remark("every picture has its row already; judging them again");
        return Ok((Some(run), bundle));
    }
    let mut fleet = if settings.fleet.is_remote() {
        Fleet::remote(&settings.fleet, stores.clone()).await?
    } else {
        Fleet::embedded(&settings.fleet, stores.clone()).await?
    };
    let manner =
        Manner { detach: false, index: false, admin: AdminAddr::Off, display, stop: stopping::on_signal()? };
    let opened = archive::open(stores, &settings.archive).await?;
    let (shape, films, now) = (None, Vec::new(), Timestamp::now());
    let prepared = Prepared { archive: opened, wish, plan, model, shape, films, now };
    let working = work(settings, &manner, &mut fleet, prepared);
    let worked = spans::within(submission_span(settings), working).await;
    let closed = fleet.close().await;
    let report = worked?;
    closed?;
    if !report.complete {
        display.remark("the run is not complete; run the same command again to go on where it stopped");
    }
    Ok((report.complete.then_some(run), bundle))
}

/// One item a picture, with all questions about it.
fn items(cases: &[Case]) -> anyhow::Result<Vec<JobItem>> {
    let mut by_picture: BTreeMap<&PathBuf, Vec<Question>> = BTreeMap::new();
    for case in cases {
        let questions = by_picture.entry(&case.picture).or_default();
        if !case.question.is_empty() {
            let answer = case.form.clone();
            questions.push(Question { answer, ..Question::free(case.question.clone()) });
        }
    }
    let item = |(picture, questions): (&PathBuf, Vec<Question>)| {
        let uri = ItemUri::from_path(picture).with_context(|| picture.display().to_string())?;
        Ok(JobItem { questions, ..JobItem::new(uri) })
    };
    by_picture.into_iter().map(item).collect()
}

/// The same set, prompt, model and adapter have the same run.
fn run_id(wish: &Wish, items: &[JobItem]) -> anyhow::Result<RunId> {
    let mut digest = Sha256::new();
    let adapter = wish.adapter.as_ref().map(|adapter| &adapter.sha256);
    digest.update(serde_json::to_vec(&(&wish.prompt, wish.max_tokens, &wish.bundle, adapter, items))?);
    Ok(RunId::new(format!("eval-{}", &hex::encode(digest.finalize())[..16]))?)
}

async fn plan(
    archive: &dyn Storage,
    run: &RunId,
    wish: &Wish,
    items: Vec<JobItem>,
    job_size: usize,
) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        listed: items.len() as u64,
        duplicates: 0,
        already_done: 0,
        already_failed: 0,
        continued: Vec::new(),
        left_alone: Vec::new(),
        new_run: None,
    };
    match archive.head(&layout::run_manifest(run)).await {
        Ok(_) => {}
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            let jobs = jobs(run, &wish.prompt_hash(), items, job_size);
            plan.new_run = Some(NewRun { run: run.clone(), jobs, refused: Vec::new() });
            return Ok(plan);
        }
        Err(error) => return Err(error.into()),
    }
    let manifest = archive::manifest(archive, run).await?;
    let parts = archive::parts(archive, Some(run)).await?;
    let done: HashSet<JobId> = parts.into_values().flatten().map(|(job, _)| job).collect();
    let jobs = history::unfinished_jobs(archive, &manifest, &done).await?;
    if !jobs.is_empty() {
        plan.continued.push(ContinuedRun { manifest, jobs });
    }
    Ok(plan)
}

fn jobs(run: &RunId, prompt_hash: &str, items: Vec<JobItem>, job_size: usize) -> Vec<PlannedJob> {
    let job = |(ordinal, items): (usize, Vec<JobItem>)| {
        let id = Job::deterministic_id(run, ordinal as u64, &items, prompt_hash);
        PlannedJob { id, items, begun: false }
    };
    cut(items, job_size, |item| item).into_iter().enumerate().map(job).collect()
}

async fn write(archive: &dyn Storage, run: &RunId, report: &Report) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    let plot = plot::svg(report);
    let mut markdown = report.markdown();
    if plot.is_some() {
        markdown.push_str("\n![Scores](plot.svg)\n");
    }
    let files = [("report.json", Some(json)), ("report.md", Some(markdown.into_bytes()))];
    for (name, bytes) in files.into_iter().chain([("plot.svg", plot.map(String::into_bytes))]) {
        if let Some(bytes) = bytes {
            archive.put(&layout::evaluation(run, name), bytes.into(), PutMode::Overwrite).await?;
        }
    }
    Ok(())
}
