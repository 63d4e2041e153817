//! Training on the tiny checkpoint: the mirror computes what the model computes, learns, and what it saves is served.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use captionfleet_model::checkpoint::{self, GoldenStage};
use captionfleet_model::train::{Sample, Schedule, Sight, TrainError, TrainOptions, Trainer, TrainingPlan};
use captionfleet_model::{Adapter, CaptionTokenizer, DecodeRow, KvCache, PrefillRow, TinyGptV};

const BASE: &str = "the tiny base";

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

fn model() -> TinyGptV {
    let assembly = checkpoint::golden_dir(golden(), GoldenStage::Caption(3)).unwrap();
    TinyGptV::load(&assembly.weights(&Device::Cpu).unwrap(), assembly.config()).unwrap()
}

fn tokenizer() -> CaptionTokenizer {
    CaptionTokenizer::from_bytes(&std::fs::read(golden().join("tokenizer/tokenizer.json")).unwrap()).unwrap()
}

/// Pictures of noise, each with its own words; lengths differ.
fn samples(model: &TinyGptV) -> Vec<Sample> {
    let tokenizer = tokenizer();
    let queries = model.config().qformer.num_query_tokens;
    ["a red boat", "two blue stars on a hill", "no", "a small dog"]
        .iter()
        .map(|answer| {
            let tokens = Tensor::randn(0f32, 1.0, (queries, 64), &Device::Cpu).unwrap();
            Sample::new(&tokenizer, tokens, "<Img><ImageHere></Img> What is it? ", answer).unwrap()
        })
        .collect()
}

fn options(steps: usize) -> TrainOptions {
    TrainOptions {
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
    }
}

/// Vision features of pictures of noise, and examples that begin with what a training of such options takes of them.
fn looked_at(model: &TinyGptV, options: &TrainOptions) -> (Tensor, Vec<Sample>) {
    let side = model.config().image_size;
    let pixels = Tensor::randn(0f32, 1.0, (4, 3, side, side), &Device::Cpu).unwrap();
    let features = model.vision_features(&pixels).unwrap();
    let pictures = options.sight().of(model, &features).unwrap();
    let mut samples = samples(model);
    for (row, sample) in samples.iter_mut().enumerate() {
        sample.picture = pictures.get(row).unwrap();
    }
    (features, samples)
}

/// The same examples as the model that serves sees them.
fn seen(
    model: &TinyGptV,
    features: &Tensor,
    samples: &[Sample],
    adapter: Option<&Arc<Adapter>>,
) -> Vec<Sample> {
    let adapters = vec![adapter.cloned(); samples.len()];
    let tokens = model.image_tokens_with(features, &adapters, &mut || {}).unwrap();
    let of = |(row, sample): (usize, &Sample)| Sample { picture: tokens.get(row).unwrap(), ..sample.clone() };
    samples.iter().enumerate().map(of).collect()
}

/// Mean cross-entropy of the answers as the model that serves computes it.
fn served_loss(model: &TinyGptV, samples: &[Sample], adapter: Option<&Arc<Adapter>>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for sample in samples {
        let mut cache = KvCache::new(&model.config().lm, 1, 200, DType::F32, &Device::Cpu).unwrap();
        let embeds = model.embed_prompt(&sample.prompt, &sample.picture).unwrap();
        let row = PrefillRow { slot: 0, embeds, adapter: adapter.cloned() };
        let mut logits = model.prefill(&[row], &mut cache).unwrap();
        for &token in &sample.answer {
            let chances = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
            sum -=
                f64::from(chances.get(0).unwrap().get(token as usize).unwrap().to_scalar::<f32>().unwrap());
            count += 1.0;
            logits = model.decode(&[DecodeRow { slot: 0, token }], &mut cache).unwrap();
        }
    }
    sum / count
}

/// What the model that serves says.
fn said(model: &TinyGptV, sample: &Sample, adapter: &Arc<Adapter>) -> Vec<u32> {
    let mut cache = KvCache::new(&model.config().lm, 1, 200, DType::F32, &Device::Cpu).unwrap();
    let embeds = model.embed_prompt(&sample.prompt, &sample.picture).unwrap();
    let row = PrefillRow { slot: 0, embeds, adapter: Some(Arc::clone(adapter)) };
    let mut logits = model.prefill(&[row], &mut cache).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < sample.answer.len() {
        let token = logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap()[0];
        tokens.push(token);
        logits = model.decode(&[DecodeRow { slot: 0, token }], &mut cache).unwrap();
    }
    tokens
}

#[test]
fn before_the_first_step_the_mirror_computes_what_the_model_computes() {
    let model = model();
    let samples = samples(&model);
    let trainer = Trainer::new(&model, BASE, "tiny", options(10)).unwrap();
    let (mirror, served) = (trainer.loss(&samples, 4).unwrap(), served_loss(&model, &samples, None));
    assert!((mirror - served).abs() < 1e-3, "{mirror} {served}");
    assert!((trainer.loss(&samples, 1).unwrap() - mirror).abs() < 1e-4, "padding changes the loss");
}

#[test]
fn it_learns_and_the_served_adapter_says_what_was_learnt() {
    let model = model();
    let samples = samples(&model);
    for targets in [vec!["query_key_value", "dense"], vec!["q_proj", "v_proj", "dense", "fc1", "fc2"]] {
        let targets = targets.into_iter().map(str::to_owned).collect();
        let mut trainer =
            Trainer::new(&model, BASE, "tiny", TrainOptions { targets, ..options(150) }).unwrap();
        let before = trainer.loss(&samples, 4).unwrap();
        for _ in 0..150 {
            assert!(!trainer.step(&samples, 4).unwrap().skipped);
        }
        let after = trainer.loss(&samples, 4).unwrap();
        assert!(after < 0.1 * before, "{before} {after}");
        let folder = tempfile::tempdir().unwrap();
        trainer.save_adapter(folder.path()).unwrap();
        let adapter = Arc::new(Adapter::open(folder.path(), &model, BASE).unwrap());
        let served = served_loss(&model, &samples, Some(&adapter));
        assert!((served - after).abs() < 1e-2 * before, "{served} {after}");
        for sample in &samples {
            assert_eq!(said(&model, sample, &adapter), sample.answer);
        }
    }
}

#[test]
fn it_learns_to_see_and_the_served_adapter_sees_what_was_learnt() {
    let model = model();
    for (projections, qformer, sight) in
        [(true, false, Sight::Queries), (false, true, Sight::Features), (true, true, Sight::Features)]
    {
        // The language model stays as it is.
        let (targets, norms, sight_pace) = (Vec::new(), false, 0.5);
        let options = TrainOptions { targets, norms, projections, qformer, sight_pace, ..options(150) };
        assert_eq!(options.sight(), sight);
        let (features, samples) = looked_at(&model, &options);
        let mut trainer = Trainer::new(&model, BASE, "tiny", options).unwrap();
        let before = trainer.loss(&samples, 4).unwrap();
        let served = served_loss(&model, &seen(&model, &features, &samples, None), None);
        assert!((before - served).abs() < 2e-3, "{sight:?}: {before} {served}");
        for _ in 0..150 {
            assert!(!trainer.step(&samples, 4).unwrap().skipped);
        }
        let after = trainer.loss(&samples, 4).unwrap();
        assert!(after < 0.8 * before, "{sight:?}: {before} {after}");
        let folder = tempfile::tempdir().unwrap();
        trainer.save_adapter(folder.path()).unwrap();
        let adapter = Arc::new(Adapter::open(folder.path(), &model, BASE).unwrap());
        assert!(adapter.changes_image_tokens());
        let seen = seen(&model, &features, &samples, Some(&adapter));
        let served = served_loss(&model, &seen, Some(&adapter));
        assert!((served - after).abs() < 1e-2 * before, "{sight:?}: {served} {after}");
    }
}

#[test]
fn the_plan_counts_what_learns() {
    let model = model();
    for (projections, qformer) in [(false, false), (true, false), (false, true), (true, true)] {
        let options = TrainOptions { projections, qformer, ..options(1) };
        let plan = TrainingPlan::new(model.config(), &options, 16.0, (4, 4, 40), true);
        let trainer = Trainer::new(&model, BASE, "tiny", options).unwrap();
        assert_eq!(plan.parameters, trainer.parameters() as u64, "{projections} {qformer}");
    }
}

#[test]
fn a_resumed_training_ends_where_an_uninterrupted_one_does() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("training/state.safetensors");
    let options = |steps| TrainOptions { projections: true, qformer: true, ..options(steps) };
    let (_, samples) = looked_at(&model, &options(8));
    let begun = || Trainer::new(&model, BASE, "tiny", options(8)).unwrap();
    let mut whole = begun();
    let mut first = begun();
    for step in 0..8 {
        whole.step(&samples, 4).unwrap();
        if step < 4 {
            first.step(&samples, 4).unwrap();
        }
    }
    first.save_state(&state).unwrap();
    let mut second = begun();
    second.restore(&state).unwrap();
    assert_eq!(second.steps(), 4);
    for _ in 4..8 {
        second.step(&samples, 4).unwrap();
    }
    let saved = |trainer: &Trainer<'_>, name: &str| {
        trainer.save_adapter(&folder.path().join(name)).unwrap();
        std::fs::read(folder.path().join(name).join("adapter_model.safetensors")).unwrap()
    };
    assert!(saved(&whole, "whole") == saved(&second, "second"), "the resumed one learnt something else");

    let mut other = Trainer::new(&model, BASE, "tiny", TrainOptions { rank: 4, ..options(8) }).unwrap();
    let refused = other.restore(&state).unwrap_err();
    assert!(matches!(&refused, TrainError::State { reason, .. } if reason.contains("rank: 4")), "{refused}");
}

#[test]
fn gradients_of_parts_add_up_to_that_of_the_whole() {
    let model = model();
    let samples = samples(&model);
    let step = |micro: usize| {
        let mut trainer = Trainer::new(&model, BASE, "tiny", options(4)).unwrap();
        // In the first step B is zero and A has no gradient.
        trainer.step(&samples, micro).unwrap();
        trainer.step(&samples, micro).unwrap()
    };
    let (whole, parts) = (step(4), step(1));
    assert!((whole.loss - parts.loss).abs() < 1e-4 * whole.loss, "{whole:?} {parts:?}");
    assert!((whole.gradient - parts.gradient).abs() < 1e-3 * whole.gradient, "{whole:?} {parts:?}");
}

#[test]
fn steps_without_a_number_change_nothing_and_end_the_training() {
    let model = model();
    let good = samples(&model);
    let mut bad = good.clone();
    bad[0].picture = (&bad[0].picture * f64::NAN).unwrap();
    let mut trainer = Trainer::new(&model, BASE, "tiny", options(20)).unwrap();
    trainer.step(&good, 4).unwrap();
    let before = trainer.loss(&good, 4).unwrap();
    for _ in 0..7 {
        assert!(trainer.step(&bad, 4).unwrap().skipped);
    }
    assert_eq!(trainer.loss(&good, 4).unwrap(), before);
    assert!(matches!(trainer.step(&bad, 4), Err(TrainError::NotFinite { skipped: 8, step: 9 })));
}

#[test]
fn a_layer_that_is_not_there_is_refused_by_name() {
    let options = TrainOptions { targets: vec!["gate_proj".to_owned()], ..options(1) };
    let error = Trainer::new(&model(), BASE, "tiny", options).err().unwrap().to_string();
    assert!(error.contains("gate_proj") && error.contains("query_key_value"), "{error}");
}
