//! Teaching the demo model a word it has never heard, from a table of pictures to what the engine says.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{DecodeLimits, decode, prepare};
use captionfleet_model::train::{Schedule, Sight, TrainOptions};
use captionfleet_model::{Adapter, SamplingOptions};
use captionfleet_proto::examples::{Example, Picture, write_examples};
use captionfleet_proto::storage::{LocalRoots, StorageOptions, Stores};
use captionfleet_worker::app::{DeviceChoice, EngineSettings, start_engine};
use captionfleet_worker::demo_model;
use captionfleet_worker::engine::{Ask, CaptionRequest, EngineHandle, Priority, Unobserved};
use captionfleet_worker::finetune::{FinetuneOptions, Lessons, ensure_free, finetune, read_tables, see};
use captionfleet_world::{Scene, Split, Verdict, check_caption, render};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const SCENES: u64 = 12;

/// Scenes with something new, as files with a table beside them.
fn taught() -> (TempDir, Vec<Scene>) {
    let folder = tempfile::tempdir().unwrap();
    let scenes: Vec<Scene> = (0..SCENES).map(|seed| Scene::with_something_new(seed, Split::Train)).collect();
    let mut examples = Vec::new();
    for (seed, scene) in scenes.iter().enumerate() {
        let name = format!("{seed}.png");
        render(scene, 160, 120).save(folder.path().join(&name)).unwrap();
        let caption = captionfleet_world::texts::captions(scene).remove(0).text;
        examples.push(Example { picture: Picture::At(name), caption, question: None });
    }
    examples.push(Example {
        picture: Picture::At("nowhere.png".to_owned()),
        caption: "a boat".to_owned(),
        question: None,
    });
    std::fs::write(folder.path().join("captions.parquet"), write_examples(&examples).unwrap()).unwrap();
    (folder, scenes)
}

async fn lessons(loaded: &LoadedModel, folder: &Path, sight: Sight, held_out: f32) -> Lessons {
    let options = StorageOptions { local_roots: LocalRoots::Any, ..StorageOptions::default() };
    let stores = Stores::new(options);
    let table = folder.join("captions.parquet").display().to_string();
    let captioned = read_tables(&stores, &[table]).await.unwrap();
    see(&stores, loaded, captioned, sight, (held_out, 1), |_| {}).await.unwrap()
}

fn options(out: &Path, steps: usize) -> FinetuneOptions {
    FinetuneOptions {
        train: TrainOptions {
            rank: 8,
            alpha: 16.0,
            targets: ["query_key_value", "dense"].map(str::to_owned).to_vec(),
            projections: false,
            qformer: false,
            sight_pace: 0.1,
            norms: true,
            schedule: Schedule { rate: 1e-2, last: 0.1, warm_up: 5, steps },
            weight_decay: 0.0,
            clip: 1.0,
            seed: 1,
        },
        batch: 6,
        micro_batch: 6,
        look_every: 5,
        patience: 1000,
        out: out.to_owned(),
        resume: false,
    }
}

async fn said(engine: &EngineHandle, folder: &Path, adapter: Option<&Arc<Adapter>>) -> Vec<String> {
    let mut said = Vec::new();
    for seed in 0..SCENES {
        let bytes = std::fs::read(folder.join(format!("{seed}.png"))).unwrap();
        let picture = prepare(&decode(&bytes, &DecodeLimits::default()).unwrap(), &engine.info().config);
        let prompt = engine.info().prompts.caption.as_str().into();
        let request = CaptionRequest {
            picture,
            asks: Ask::alone(prompt, SamplingOptions::default()),
            adapter: adapter.cloned(),
            embed: false,
            priority: Priority::Bulk,
        };
        said.push(engine.caption(request).await.unwrap().caption);
    }
    said
}

fn right(said: &[String], scenes: &[Scene]) -> usize {
    said.iter().zip(scenes).filter(|(said, scene)| check_caption(said, scene) == Verdict::Correct).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_was_never_heard_is_said_after_training() {
    let bundle = demo_model::bundle().unwrap();
    let loaded = bundle.load(&Device::Cpu).unwrap();
    let (folder, scenes) = taught();
    let out = folder.path().join("adapter");
    let mut options = options(&out, 90);
    (options.train.projections, options.train.qformer) = (true, true);
    let lessons = lessons(&loaded, folder.path(), options.train.sight(), 0.0).await;
    assert_eq!((lessons.train.len(), lessons.held_out.len()), (SCENES as usize, 0));
    assert!(lessons.unreadable.len() == 1 && lessons.unreadable[0].contains("nowhere.png"));
    let done = finetune(&loaded, &lessons, &options, &CancellationToken::new(), |_, _| {}).unwrap();
    assert!(done.steps == 90 && !done.interrupted);
    let svg = std::fs::read_to_string(out.join("training/loss.svg")).unwrap();
    assert!(svg.contains("<polyline") && svg.ends_with("</svg>\n"));

    let settings = EngineSettings { device: DeviceChoice::Cpu, slots: Some(4), ..EngineSettings::default() };
    let engine = start_engine(&bundle, settings, Arc::new(Unobserved)).unwrap();
    let adapter = Arc::new(engine.handle().open_adapter(&out).unwrap());
    let untaught = said(&engine.handle(), folder.path(), None).await;
    assert_eq!(right(&untaught, &scenes), 0);
    let taught = right(&said(&engine.handle(), folder.path(), Some(&adapter)).await, &scenes);
    assert!(taught >= SCENES as usize - 1, "{taught} of {SCENES} captions are right");
    // The engine remembers these pictures as the adapter sees them.
    assert_eq!(said(&engine.handle(), folder.path(), None).await, untaught);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_training_goes_on_and_ends_as_if_it_had_not_stopped() {
    let loaded = demo_model::bundle().unwrap().load(&Device::Cpu).unwrap();
    let (folder, _) = taught();
    let lessons = lessons(&loaded, folder.path(), Sight::ImageTokens, 0.25).await;
    assert_eq!((lessons.train.len(), lessons.held_out.len()), (9, 3));
    let go = CancellationToken::new();
    let whole = options(&folder.path().join("whole"), 20);
    let uninterrupted = finetune(&loaded, &lessons, &whole, &go, |_, _| {}).unwrap();

    let stop = CancellationToken::new();
    let cut = options(&folder.path().join("cut"), 20);
    let first = finetune(&loaded, &lessons, &cut, &stop, |point, _| {
        if point.step == 10 {
            stop.cancel();
        }
    });
    let first = first.unwrap();
    assert!(first.interrupted && first.steps == 10);
    let refused = finetune(&loaded, &lessons, &cut, &go, |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("--resume"), "{refused}");
    assert!(ensure_free(&cut.out, false).is_err() && ensure_free(&cut.out, true).is_ok());
    let resumed = FinetuneOptions { resume: true, ..cut.clone() };
    let second = finetune(&loaded, &lessons, &resumed, &go, |_, _| {}).unwrap();
    assert_eq!((second.steps, second.best_step), (20, uninterrupted.best_step));
    let weights = |out: &Path| std::fs::read(out.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&cut.out) == weights(&whole.out), "the resumed training learnt something else");

    let other = Lessons { digest: "other".to_owned(), ..lessons };
    let refused = finetune(&loaded, &other, &resumed, &go, |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("other data"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_better_for_a_while_ends_a_training() {
    let loaded = demo_model::bundle().unwrap().load(&Device::Cpu).unwrap();
    let (folder, _) = taught();
    let lessons = lessons(&loaded, folder.path(), Sight::ImageTokens, 0.25).await;
    let mut options = options(&folder.path().join("early"), 400);
    // Steps far too large: the loss on the held-out pictures rises at once.
    options.train.schedule.rate = 0.5;
    options.patience = 3;
    let done = finetune(&loaded, &lessons, &options, &CancellationToken::new(), |_, _| {}).unwrap();
    assert!(done.stopped_early && done.steps < 400, "{done:?}");
    assert!(done.loss <= done.loss_before);
}
