//! `worker bench`: what a bundle does on this machine, with nothing else in the way.

mod items;
mod report;
mod steps;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use captionfleet_model::bundle::{Bundle, LoadedModel};
use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_proto::storage::Stores;
use captionfleet_world::export::choose;
use captionfleet_world::{ExportOptions, FileFormat, Split, render};

use self::report::Report;
use super::{say, set_threads};
use crate::app::EngineSettings;
use crate::config::{BenchArgs, storage_options};
use crate::engine::EngineOptions;
use crate::model_choice::ModelChoice;

/// Sides of the pictures before they are resized for the network.
const PICTURE: (u32, u32) = (320, 240);
/// Pictures of one measurement of a model that takes seconds for each.
const FEW: usize = 32;
/// Pictures of one measurement of a small model.
const MANY: usize = 256;

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    set_threads(args.model.threads)?;
    let stores = Stores::new(storage_options(None, &[]));
    let since = Instant::now();
    let bundle = Arc::new(ModelChoice::parse(args.model.model.as_deref())?.resolve(&stores).await?);
    let open_seconds = since.elapsed().as_secs_f64();
    let is_small = EngineOptions::is_small(&bundle.manifest().config);
    let pictures = Arc::new(pictures(
        args.count.map_or(if is_small { MANY } else { FEW }, |count| count as usize),
        &bundle,
    ));

    let (loading, seen, batches) = (bundle.clone(), pictures.clone(), sizes(&args.batches));
    let (device, items_only) = (args.model.device, args.items_only);
    let steps = move || -> anyhow::Result<Report> {
        let since = Instant::now();
        let loaded = loading.load(&device.open()?)?;
        let load_seconds = since.elapsed().as_secs_f64();
        let since = Instant::now();
        loaded.self_test()?;
        let self_test_seconds = since.elapsed().as_secs_f64();
        let roofline = steps::roofline(&loaded)?;
        let batches = if items_only { Vec::new() } else { batches };
        Ok(Report {
            bundle: loading.id().to_owned(),
            device: name(&loaded),
            threads: rayon::current_num_threads(),
            open_seconds,
            load_seconds,
            self_test_seconds,
            weights: loaded.memory.clone(),
            roofline,
            steps: steps::measure(&loaded, roofline, &batches, &seen)?,
            items: Vec::new(),
        })
    };
    let mut report = tokio::task::spawn_blocking(steps).await??;
    for slots in sizes(&args.slots_list) {
        let settings = EngineSettings { slots: Some(slots), ..args.model.engine() };
        report.items.push(items::measure(&bundle, settings, &pictures, args.max_tokens as usize).await?);
    }
    if args.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        report.tell();
    }
    Ok(ExitCode::SUCCESS)
}

fn sizes(given: &[u16]) -> Vec<usize> {
    given.iter().copied().map(usize::from).collect()
}

fn name(loaded: &LoadedModel) -> &'static str {
    if loaded.model.device().is_cpu() { "cpu" } else { "cuda" }
}

fn pictures(count: usize, bundle: &Bundle) -> Vec<PreparedPicture> {
    let options =
        ExportOptions { count, seed: 1, split: Split::HeldOut, format: FileFormat::Png, distinct: false };
    choose(&options)
        .iter()
        .map(|(_, scene)| {
            let drawn = render(scene, PICTURE.0, PICTURE.1);
            let picture = Picture { width: PICTURE.0, height: PICTURE.1, rgb: drawn.into_raw() };
            prepare(&picture, &bundle.manifest().config)
        })
        .collect()
}
