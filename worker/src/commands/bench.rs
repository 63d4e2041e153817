//! `worker bench`: pictures in memory through the engine, nothing else in the way.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use captionfleet_model::SamplingOptions;
use captionfleet_model::bundle::Bundle;
use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_proto::storage::Stores;
use captionfleet_world::export::choose;
use captionfleet_world::{ExportOptions, FileFormat, Split, render};
use futures::future::try_join_all;
use serde::Serialize;

use super::{say, set_threads};
use crate::app::{EngineSettings, start_engine};
use crate::config::{BenchArgs, storage_options};
use crate::engine::{CaptionRequest, Engine, Priority, Unobserved};
use crate::model_choice::ModelChoice;

/// Sides of the pictures before they are resized for the network.
const PICTURE: (u32, u32) = (320, 240);

#[derive(Serialize)]
struct Measured {
    slots: usize,
    pictures: usize,
    seconds: f64,
    pictures_per_second: f64,
    tokens_per_second: f64,
}

pub(super) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    set_threads(args.model.threads)?;
    let stores = Stores::new(storage_options(None, &[]));
    let bundle = Arc::new(ModelChoice::parse(args.model.model.as_deref())?.resolve(&stores).await?);
    let pictures = Arc::new(pictures(args.count, &bundle));
    if !args.json {
        say("slots  pictures  seconds  pictures/s  tokens/s");
    }
    let mut all = Vec::new();
    for &slots in &args.slots_list {
        let measured = measure(&args, &bundle, &pictures, slots).await?;
        if !args.json {
            say(format_args!(
                "{:5}  {:8}  {:7.2}  {:10.2}  {:8.1}",
                measured.slots,
                measured.pictures,
                measured.seconds,
                measured.pictures_per_second,
                measured.tokens_per_second
            ));
        }
        all.push(measured);
    }
    if args.json {
        say(serde_json::to_string_pretty(&all)?);
    }
    Ok(ExitCode::SUCCESS)
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

async fn measure(
    args: &BenchArgs,
    bundle: &Arc<Bundle>,
    pictures: &[PreparedPicture],
    slots: usize,
) -> anyhow::Result<Measured> {
    let loading = bundle.clone();
    let settings = EngineSettings { slots: Some(slots), ..args.model.engine() };
    let engine: Engine =
        tokio::task::spawn_blocking(move || start_engine(&loading, settings, Arc::new(Unobserved))).await??;
    let handle = engine.handle();
    let prompt: Arc<str> = handle.info().prompts.caption.as_str().into();
    let embed = handle.info().embedding_space.is_some();
    let since = Instant::now();
    let results = try_join_all(pictures.iter().map(|picture| {
        handle.caption(CaptionRequest {
            picture: picture.clone(),
            prompt: prompt.clone(),
            sampling: SamplingOptions::default(),
            embed,
            priority: Priority::Bulk,
        })
    }))
    .await?;
    let seconds = since.elapsed().as_secs_f64();
    let tokens: u32 = results.iter().map(|result| result.tokens).sum();
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    Ok(Measured {
        slots,
        pictures: pictures.len(),
        seconds,
        pictures_per_second: pictures.len() as f64 / seconds,
        tokens_per_second: f64::from(tokens) / seconds,
    })
}
