//! Adapters beside the base: what they add, that neighbours do not matter, and what is refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterConfig, save};
use captionfleet_model::checkpoint::{self, GoldenStage};
use captionfleet_model::{
    Adapter, AdapterError, DecodeRow, KvCache, ModelConfig, PrefillRow, TinyGptV, Weights, tensor_inventory,
};

const BASE: &str = "the tiny base";
/// Dimensions of the tiny checkpoint's language model.
const WIDTH: usize = 64;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const HIDDEN: usize = 256;

fn tiny() -> (HashMap<String, Tensor>, ModelConfig) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let assembly = checkpoint::golden_dir(&dir, GoldenStage::Caption(3)).unwrap();
    let inventory = tensor_inventory(assembly.config()).unwrap();
    let tensors =
        inventory.iter().map(|spec| (spec.name.clone(), assembly.tensor(&spec.name).unwrap())).collect();
    (tensors, assembly.config().clone())
}

fn model() -> TinyGptV {
    let (tensors, config) = tiny();
    TinyGptV::load(&Weights::from_tensors(tensors, &Device::Cpu), &config).unwrap()
}

fn noise(shape: (usize, usize), size: f64) -> Tensor {
    (Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap() * size).unwrap()
}

/// Changes of random numbers for the given parts of every layer: `(part, inputs, outputs)`.
fn random_changes(parts: &[(&str, usize, usize)], rank: usize) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (part, inputs, outputs) in parts {
            let module = format!("model.layers.{layer}.{part}");
            tensors.push((format!("{module}.lora_A.weight"), noise((rank, *inputs), 0.3)));
            tensors.push((format!("{module}.lora_B.weight"), noise((*outputs, rank), 0.3)));
        }
    }
    tensors
}

const FUSED: [(&str, usize, usize); 4] = [
    ("self_attn.query_key_value", WIDTH, 3 * WIDTH),
    ("self_attn.dense", WIDTH, WIDTH),
    ("mlp.fc1", WIDTH, HIDDEN),
    ("mlp.fc2", HIDDEN, WIDTH),
];

fn norms() -> Vec<(String, Tensor)> {
    let row = |width: usize| (noise((1, width), 0.1).squeeze(0).unwrap() + 1.0).unwrap();
    let mut tensors = vec![("model.final_layernorm.weight".to_owned(), row(WIDTH))];
    for layer in 0..LAYERS {
        let norms = [
            ("input_layernorm", WIDTH),
            ("post_layernorm", WIDTH),
            ("self_attn.q_layernorm", WIDTH / HEADS),
            ("self_attn.k_layernorm", WIDTH / HEADS),
        ];
        tensors
            .extend(norms.map(|(norm, width)| (format!("model.layers.{layer}.{norm}.weight"), row(width))));
    }
    tensors
}

fn config(rank: usize) -> AdapterConfig {
    AdapterConfig::new(rank, 16.0, &["query_key_value", "dense"], true, "tiny")
}

fn opened(model: &TinyGptV, tensors: &[(String, Tensor)], rank: usize) -> Result<Adapter, AdapterError> {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &config(rank), tensors, BASE).unwrap();
    Adapter::open(folder.path(), model, BASE)
}

fn prompt(model: &TinyGptV, length: u32, seed: u32) -> Tensor {
    let ids: Vec<u32> = (0..length).map(|i| (i * 37 + seed * 101) % 470).collect();
    model.embed_tokens(&ids).unwrap()
}

/// Logits of a prefill and of two decode steps, row by row.
fn steps(model: &TinyGptV, rows: &[(u32, Option<&Arc<Adapter>>)]) -> Vec<Vec<Tensor>> {
    let mut cache = KvCache::new(&model.config().lm, rows.len(), 80, DType::F32, &Device::Cpu).unwrap();
    let first: Vec<PrefillRow> = rows
        .iter()
        .enumerate()
        .map(|(slot, (seed, adapter))| PrefillRow {
            slot,
            embeds: prompt(model, 9 + 5 * seed, *seed),
            adapter: adapter.cloned(),
        })
        .collect();
    let mut logits = vec![model.prefill(&first, &mut cache).unwrap()];
    for token in [7, 8] {
        let next: Vec<DecodeRow> = (0..rows.len()).map(|slot| DecodeRow { slot, token }).collect();
        logits.push(model.decode(&next, &mut cache).unwrap());
    }
    (0..rows.len()).map(|row| logits.iter().map(|step| step.narrow(0, row, 1).unwrap()).collect()).collect()
}

fn bits(logits: &[Tensor]) -> Vec<u32> {
    let values = Tensor::cat(logits, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn distance(one: &[Tensor], other: &[Tensor]) -> f32 {
    let apart = (Tensor::cat(one, 0).unwrap() - Tensor::cat(other, 0).unwrap()).unwrap();
    apart.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn a_batch_of_three_adapters_and_none_equals_each_alone() {
    let model = model();
    let all = Arc::new(opened(&model, &[random_changes(&FUSED, 4), norms()].concat(), 4).unwrap());
    let some = Arc::new(opened(&model, &random_changes(&FUSED[..2], 8), 8).unwrap());
    let split = [("self_attn.q_proj", WIDTH, WIDTH), ("self_attn.v_proj", WIDTH, WIDTH)];
    let split = Arc::new(opened(&model, &random_changes(&split, 3), 3).unwrap());
    let rows = [(1, Some(&all)), (2, None), (3, Some(&some)), (4, Some(&all)), (5, Some(&split)), (6, None)];
    let together = steps(&model, &rows);
    for (row, together) in rows.iter().zip(&together) {
        let alone = steps(&model, std::slice::from_ref(row));
        assert_eq!(bits(&alone[0]), bits(together), "row {}", row.0);
    }
    // The base's own rows are as if there were no adapters, and the adapters do change something.
    let plain = steps(&model, &rows.map(|(seed, _)| (seed, None)));
    for ((row, together), plain) in rows.iter().zip(&together).zip(&plain) {
        assert_eq!(bits(together) == bits(plain), row.1.is_none());
    }
}

#[test]
fn merged_and_unmerged_agree() {
    let (base, dimensions) = tiny();
    let model = TinyGptV::load(&Weights::from_tensors(base.clone(), &Device::Cpu), &dimensions).unwrap();
    let scaling = 16.0 / 4.0;
    for names in [
        vec!["self_attn.query_key_value", "self_attn.dense"],
        vec!["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1", "mlp.fc2"],
    ] {
        let sizes = |name: &str| match name {
            "self_attn.query_key_value" => (WIDTH, 3 * WIDTH),
            "mlp.fc1" => (WIDTH, HIDDEN),
            "mlp.fc2" => (HIDDEN, WIDTH),
            _ => (WIDTH, WIDTH),
        };
        let parts: Vec<_> = names.iter().map(|name| (*name, sizes(name).0, sizes(name).1)).collect();
        let changes = [random_changes(&parts, 4), norms()].concat();
        let mut merged = base.clone();
        for (name, tensor) in &changes {
            let Some(module) = name.strip_suffix(".lora_A.weight") else {
                if name.ends_with("layernorm.weight") {
                    merged.insert(format!("llama_model.{name}"), tensor.clone());
                }
                continue;
            };
            let up = &changes.iter().find(|(name, _)| *name == format!("{module}.lora_B.weight")).unwrap().1;
            let change = (up.matmul(tensor).unwrap() * scaling).unwrap();
            let (target, change) = match module.rsplit_once('.').unwrap() {
                (attention, part @ ("q_proj" | "k_proj" | "v_proj")) => {
                    let place = ["q_proj", "k_proj", "v_proj"].iter().position(|name| *name == part).unwrap();
                    (format!("{attention}.query_key_value"), interleaved(&change, place))
                }
                _ => (module.to_owned(), change),
            };
            let weight = merged.get_mut(&format!("llama_model.{target}.weight")).unwrap();
            *weight = (&*weight + change).unwrap();
        }
        let merged = TinyGptV::load(&Weights::from_tensors(merged, &Device::Cpu), &dimensions).unwrap();
        let adapter = Arc::new(opened(&model, &changes, 4).unwrap());
        let beside = steps(&model, &[(2, Some(&adapter))]);
        let within = steps(&merged, &[(2, None)]);
        let plain = steps(&model, &[(2, None)]);
        let apart = distance(&beside[0], &within[0]);
        assert!(apart < 2e-3, "{apart}");
        assert!(distance(&beside[0], &plain[0]) > 1.0, "the adapter hardly changes anything");
    }
}

/// Rows of head `h` of the `place`th part to rows `(3 h + place) d` of the fused matrix.
fn interleaved(change: &Tensor, place: usize) -> Tensor {
    let head = WIDTH / HEADS;
    let zeros = Tensor::zeros((head, WIDTH), DType::F32, &Device::Cpu).unwrap();
    let blocks: Vec<Tensor> = (0..3 * HEADS)
        .map(|block| match (block / 3, block % 3) {
            (index, part) if part == place => change.narrow(0, index * head, head).unwrap(),
            _ => zeros.clone(),
        })
        .collect();
    Tensor::cat(&blocks, 0).unwrap()
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = model();
    let dense = [("self_attn.dense", WIDTH, WIDTH)];
    let refused = |tensors: &[(String, Tensor)]| opened(&model, tensors, 4).unwrap_err().to_string();

    let wide = refused(&random_changes(&[("self_attn.dense", 2 * WIDTH, WIDTH)], 4));
    assert!(wide.contains("layers.0.self_attn.dense.lora_A") && wide.contains("[4, 128]"), "{wide}");

    let mut stray = random_changes(&dense, 4);
    stray.push(("model.layers.0.mlp.gate.lora_A.weight".to_owned(), noise((4, WIDTH), 1.0)));
    assert!(refused(&stray).contains("layers.0.mlp.gate"), "{}", refused(&stray));

    let deep = [("model.layers.3.self_attn.dense.lora_A.weight".to_owned(), noise((4, WIDTH), 1.0))];
    assert!(refused(&deep).contains("layers.3.self_attn.dense"));

    let half = &random_changes(&dense, 4)[..1];
    assert!(refused(half).contains("layers.0.self_attn.dense.lora_B"));

    let mut broken = random_changes(&dense, 4);
    broken[1].1 = (&broken[1].1 * f64::NAN).unwrap();
    assert!(refused(&broken).contains("not finite"));

    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &config(4), &random_changes(&dense, 4), "another base").unwrap();
    let other = Adapter::open(folder.path(), &model, BASE).unwrap_err();
    assert!(matches!(other, AdapterError::Base { .. }), "{other}");

    std::fs::remove_file(folder.path().join(ADAPTER_WEIGHTS)).unwrap();
    let missing = Adapter::open(folder.path(), &model, BASE).unwrap_err().to_string();
    assert!(missing.contains(ADAPTER_WEIGHTS), "{missing}");
}

#[test]
fn settings_that_are_not_served_are_refused_by_name() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let changes = random_changes(&[("self_attn.dense", WIDTH, WIDTH)], 4);
    let with = |change: fn(&mut AdapterConfig)| {
        let mut config = config(4);
        change(&mut config);
        save(folder.path(), &config, &changes, BASE).unwrap();
        Adapter::open(folder.path(), &model, BASE).map_err(|error| error.to_string())
    };
    assert!(with(|config| config.peft_type = "IA3".to_owned()).unwrap_err().contains("IA3"));
    assert!(with(|config| config.bias = "all".to_owned()).unwrap_err().contains("bias"));
    for setting in
        ["\"use_dora\": true", "\"alora_invocation_tokens\": [1]", "\"alpha_pattern\": {\"dense\": 2}"]
    {
        let file = folder.path().join(ADAPTER_CONFIG);
        save(folder.path(), &config(4), &changes, BASE).unwrap();
        let text = std::fs::read_to_string(&file).unwrap().replacen('{', &format!("{{{setting},"), 1);
        std::fs::write(&file, text).unwrap();
        let error = Adapter::open(folder.path(), &model, BASE).unwrap_err().to_string();
        assert!(error.contains(setting.split('"').nth(1).unwrap()), "{error}");
    }
    let plain = with(|_| {}).unwrap();
    let other_alpha = with(|config| config.lora_alpha = 8.0).unwrap();
    assert_ne!(plain.digest(), other_alpha.digest());
}

#[test]
fn a_stage_file_of_the_reference_is_an_adapter() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint/TinyGPT-V_for_Stage3.pth");
    let model = model();
    let adapter = Arc::new(Adapter::open(&file, &model, BASE).unwrap());
    assert!(adapter.changes_image_tokens());
    let (with, without) = (steps(&model, &[(1, Some(&adapter))]), steps(&model, &[(1, None)]));
    assert!(distance(&with[0], &without[0]) > 0.01, "the stage's change is added a second time");
}
