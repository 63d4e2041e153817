//! `worker bench`: what a bundle does on this machine, with nothing else in the way.

mod invariance;
mod items;
mod pictures;
mod printer;
mod queries;
mod report;
mod soak;
mod steps;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use captionfleet_proto::storage::Stores;

use self::printer::Printer;
use self::report::Report;
use crate::app::{EngineSettings, ReadyModel};
use crate::config::{BenchArgs, storage_options};
use crate::engine::memory::BudgetError;
use crate::engine::{EngineOptions, Unobserved};
use crate::model_choice::ModelChoice;

/// Pictures of one measurement of a model that takes seconds for each.
const FEW: usize = 32;
/// Pictures of one measurement of a small model.
const MANY: usize = 256;
/// Pictures of a load that goes on: more than the engine remembers.
const LOAD: usize = 160;

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::new(storage_options(None, &[]));
    let since = Instant::now();
    let found = ModelChoice::parse(args.model.model.as_deref())?.resolve(&stores).await?;
    let bundle = found.bundle();
    let open_seconds = since.elapsed().as_secs_f64();
    let is_small = EngineOptions::is_small(&bundle.manifest().config);
    let usual = match (args.queries, is_small) {
        (Some(_), _) => LOAD,
        (None, true) => MANY,
        (None, false) => FEW,
    };
    let count = args.count.map_or(usual, |count| count as usize);
    let pictures = match &args.pictures {
        Some(folder) => pictures::of_folder(folder, count, bundle)?,
        None => pictures::drawn(count, bundle),
    };
    let pictures = Arc::new(pictures);

    // A large model takes minutes: what is known is told at once.
    let printer = Printer::new(args.json);
    let settings = args.model.engine();
    let model = Arc::new(found.load(&stores, move |bundle| ReadyModel::load(bundle, &settings)).await?);
    let mut report = Report::new(&model, open_seconds);
    printer.opening(&report);
    if let Some(duration) = args.soak {
        report.soak = Some(soak::run(&model, args.model.engine(), &pictures, duration, printer).await?);
        printer.end(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(count) = args.queries {
        let (count, max_tokens) = (count as usize, args.max_tokens as usize);
        let queries =
            queries::run(&model, args.model.engine(), &pictures, count, max_tokens, printer).await?;
        report.queries = Some(queries);
        printer.end(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.invariance {
        let is_random = model.is_random();
        let start = || model.start(args.model.engine(), Arc::new(Unobserved));
        let (max_tokens, is_exact) = (args.max_tokens as usize, args.model.batch_invariant);
        let count = invariance::run(start, is_random, &pictures, max_tokens, is_exact).await?;
        printer.invariance(&count);
        let is_invariant = count.is_as_it_should_be();
        report.invariance = Some(count);
        printer.end(&report)?;
        return Ok(if is_invariant { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if !args.items_only {
        let (ready, seen, batches) = (model.clone(), pictures.clone(), sizes(&args.batches));
        let (rank, chosen) = (args.adapter_rank.map(usize::from), args.steps.clone());
        // In a pool of its own, as the engine's device thread is.
        let measure = move || {
            let threads = rayon::current_num_threads();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
            let _pool = pool.context("the arithmetic threads cannot be started")?;
            steps::measure(ready.loaded(), &chosen, &batches, &seen, rank, printer)
        };
        let (roofline, steps) = tokio::task::spawn_blocking(measure).await??;
        (report.roofline, report.steps) = (Some(roofline), steps);
    }
    if args.steps_only {
        printer.end(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    printer.items_heading();
    let mut too_small = None;
    for slots in sizes(&args.slots_list) {
        let settings = EngineSettings { slots: Some(slots), ..args.model.engine() };
        match items::measure(&model, settings, &pictures, args.max_tokens as usize).await {
            Ok(items) => {
                printer.items(&items);
                report.items.push(items);
            }
            // What fits is told, and so is what was measured before.
            Err(error) if error.is::<BudgetError>() => {
                printer.line(format_args!("{slots:5}  do not fit: {error}"));
                report.slots_that_do_not_fit.push(slots);
                too_small = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    printer.end(&report)?;
    match too_small {
        Some(error) if report.items.is_empty() => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn sizes(given: &[u16]) -> Vec<usize> {
    given.iter().copied().map(usize::from).collect()
}
