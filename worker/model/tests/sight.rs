//! Adapters that change how pictures are seen: the Q-Former by low-rank changes, the projections as a whole.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use captionfleet_model::adapter::{AdapterConfig, save};
use captionfleet_model::checkpoint::{self, GoldenStage};
use captionfleet_model::{Adapter, AdapterError, ModelConfig, TinyGptV, Weights, tensor_inventory};

const BASE: &str = "the tiny base";
/// Width of the tiny checkpoint's vision tower, Q-Former and language model.
const WIDTH: usize = 64;
const HIDDEN: usize = 128;
const PROJECTED: usize = 96;
const RANK: usize = 4;
/// `lora_alpha / r` of [`opened`].
const SCALING: f64 = 4.0;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Tensors of a stage of the tiny checkpoint.
fn tiny(stage: u8) -> (HashMap<String, Tensor>, ModelConfig) {
    let assembly = checkpoint::golden_dir(&golden(), GoldenStage::Caption(stage)).unwrap();
    let inventory = tensor_inventory(assembly.config()).unwrap();
    let tensors =
        inventory.iter().map(|spec| (spec.name.clone(), assembly.tensor(&spec.name).unwrap())).collect();
    (tensors, assembly.config().clone())
}

fn loaded(tensors: HashMap<String, Tensor>, config: &ModelConfig) -> TinyGptV {
    TinyGptV::load(&Weights::from_tensors(tensors, &Device::Cpu), config).unwrap()
}

fn model() -> TinyGptV {
    let (tensors, config) = tiny(3);
    loaded(tensors, &config)
}

fn noise(shape: &[usize], size: f64) -> Tensor {
    (Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap() * size).unwrap()
}

/// Random halves for modules of the Q-Former: `(module, inputs, outputs)`.
fn changes(modules: &[(&str, usize, usize)]) -> Vec<(String, Tensor)> {
    let of = |(module, inputs, outputs): &(&str, usize, usize)| {
        let module = format!("Qformer.bert.encoder.layer.{module}");
        [
            (format!("{module}.lora_A.weight"), noise(&[RANK, *inputs], 0.2)),
            (format!("{module}.lora_B.weight"), noise(&[*outputs, RANK], 0.2)),
        ]
    };
    modules.iter().flat_map(of).collect()
}

const EVERYWHERE: [(&str, usize, usize); 7] = [
    ("0.attention.self.query", WIDTH, WIDTH),
    ("0.crossattention.self.key", WIDTH, WIDTH),
    ("0.crossattention.self.value", WIDTH, WIDTH),
    ("1.attention.output.dense", WIDTH, WIDTH),
    ("2.crossattention.output.dense", WIDTH, WIDTH),
    ("2.intermediate_query.dense", WIDTH, HIDDEN),
    ("3.output_query.dense", HIDDEN, WIDTH),
];

fn projections() -> Vec<(String, Tensor)> {
    vec![
        ("llama_proj.weight".to_owned(), noise(&[PROJECTED, WIDTH], 0.1)),
        ("llama_proj.bias".to_owned(), noise(&[PROJECTED], 0.1)),
        ("llama_proj2.weight".to_owned(), noise(&[WIDTH, PROJECTED], 0.1)),
        ("llama_proj2.bias".to_owned(), noise(&[WIDTH], 0.1)),
    ]
}

fn opened(model: &TinyGptV, tensors: &[(String, Tensor)]) -> Result<Arc<Adapter>, AdapterError> {
    let folder = tempfile::tempdir().unwrap();
    let config = AdapterConfig::new(RANK, SCALING * RANK as f64, &["query_key_value"], false, "tiny");
    save(folder.path(), &config, tensors, BASE).unwrap();
    Adapter::open(folder.path(), model, BASE).map(Arc::new)
}

fn features(model: &TinyGptV, pictures: usize) -> Tensor {
    let side = model.config().image_size;
    model.vision_features(&noise(&[pictures, 3, side, side], 1.0)).unwrap()
}

fn seen(model: &TinyGptV, features: &Tensor, adapters: &[Option<Arc<Adapter>>]) -> Tensor {
    model.image_tokens_with(features, adapters, &mut || {}).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn distance(one: &Tensor, other: &Tensor) -> f32 {
    let apart = (one - other).unwrap().abs().unwrap().flatten_all().unwrap();
    apart.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn pictures_of_three_adapters_and_none_are_seen_as_each_alone() {
    let model = model();
    let both = opened(&model, &[changes(&EVERYWHERE), projections()].concat()).unwrap();
    let qformer = opened(&model, &changes(&EVERYWHERE[1..3])).unwrap();
    let projected = opened(&model, &projections()).unwrap();
    let adapters =
        [None, Some(both.clone()), Some(qformer), None, Some(projected), Some(both.clone()), Some(both)];
    let features = features(&model, adapters.len());
    let together = seen(&model, &features, &adapters);
    let plain = model.image_tokens(&features).unwrap();
    for (row, adapter) in adapters.iter().enumerate() {
        let alone = seen(&model, &features.narrow(0, row, 1).unwrap(), std::slice::from_ref(adapter));
        let own = together.narrow(0, row, 1).unwrap();
        assert_eq!(bits(&own), bits(&alone), "picture {row}");
        assert_eq!(bits(&own) == bits(&plain.narrow(0, row, 1).unwrap()), adapter.is_none(), "picture {row}");
        assert!(adapter.as_ref().is_none_or(|adapter| adapter.changes_image_tokens()));
    }
}

#[test]
fn merged_and_unmerged_agree() {
    let (base, config) = tiny(3);
    let model = loaded(base.clone(), &config);
    let (low_rank, whole) = (changes(&EVERYWHERE), projections());
    let mut merged = base;
    for halves in low_rank.chunks(2) {
        let module = halves[0].0.strip_suffix(".lora_A.weight").unwrap();
        let change = (halves[1].1.matmul(&halves[0].1).unwrap() * SCALING).unwrap();
        let weight = merged.get_mut(&format!("{module}.weight")).unwrap();
        *weight = (&*weight + change).unwrap();
    }
    merged.extend(whole.clone());
    let merged = loaded(merged, &config);
    let adapter = opened(&model, &[low_rank, whole].concat()).unwrap();
    let features = features(&model, 2);
    let beside = seen(&model, &features, &[Some(adapter.clone()), Some(adapter)]);
    let within = merged.image_tokens(&features).unwrap();
    let plain = model.image_tokens(&features).unwrap();
    let (apart, changed) = (distance(&beside, &within), distance(&beside, &plain));
    assert!(apart < 1e-4 && changed > 0.1, "{apart} apart, changed by {changed}");
}

#[test]
fn the_projections_of_another_stage_are_served() {
    let (other, _) = tiny(1);
    let (mut base, config) = tiny(3);
    let model = loaded(base.clone(), &config);
    let file = golden().join("checkpoint/TinyGPT-V_for_Stage1.pth");
    let adapter = Arc::new(Adapter::open(&file, &model, BASE).unwrap());
    let projections: Vec<_> = other.into_iter().filter(|(name, _)| name.starts_with("llama_proj")).collect();
    assert_eq!(projections.len(), 4);
    base.extend(projections);
    let features = features(&model, 1);
    let expected = loaded(base, &config).image_tokens(&features).unwrap();
    assert!(distance(&expected, &model.image_tokens(&features).unwrap()) > 0.01, "both stages see alike");
    assert!(distance(&seen(&model, &features, &[Some(adapter)]), &expected) < 1e-5);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = model();
    let refused = |tensors: &[(String, Tensor)]| opened(&model, tensors).unwrap_err().to_string();

    let wide = refused(&changes(&[("0.crossattention.self.key", 2 * WIDTH, WIDTH)]));
    assert!(wide.contains("layer.0.crossattention.self.key.lora_A") && wide.contains("[4, 128]"), "{wide}");
    // Only every other layer looks at the picture.
    let absent = refused(&changes(&[("1.crossattention.self.key", WIDTH, WIDTH)]));
    assert!(
        absent.contains("layer.1.crossattention.self.key") && absent.contains("does not have"),
        "{absent}"
    );
    let deep = refused(&changes(&[("4.attention.self.key", WIDTH, WIDTH)]));
    assert!(deep.contains("layer.4.attention.self.key"), "{deep}");
    let half = refused(&changes(&EVERYWHERE[..1])[..1]);
    assert!(half.contains("layer.0.attention.self.query.lora_B"), "{half}");

    let alone = refused(&projections()[..2]);
    assert!(alone.contains("llama_proj2.weight"), "{alone}");
    let mut narrow = projections();
    narrow[2].1 = noise(&[WIDTH, WIDTH], 0.1);
    let narrow = refused(&narrow);
    assert!(narrow.contains("llama_proj2.weight") && narrow.contains("[64, 96]"), "{narrow}");
}
