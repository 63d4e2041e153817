//! Traces of folders whose settings say less, or more, than those of the goldens.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use captionfleet_model::pack::WeightTypes;
use captionfleet_model::trace::{self, Stage};
use serde_json::{Value, json};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// The goldens with other settings and, if given, another end of text of the language model.
fn trace_with(settings: &Value, end: Option<Value>) -> std::collections::HashMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden_dir();
    for part in ["checkpoint", "tokenizer", "images"] {
        copy_folder(&golden.join(part), &folder.path().join(part));
    }
    std::fs::copy(golden.join("config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("golden_meta.json"), settings.to_string()).unwrap();
    if let Some(end) = end {
        let generation = folder.path().join("checkpoint/phi-2/generation_config.json");
        std::fs::write(generation, json!({ "eos_token_id": end }).to_string()).unwrap();
    }
    let out = folder.path().join("trace.safetensors");
    trace::run(folder.path(), Stage::S1, WeightTypes::F32, &Device::Cpu, &out).unwrap();
    candle_core::safetensors::load(&out, &Device::Cpu).unwrap()
}

fn ids(tensors: &std::collections::HashMap<String, Tensor>, name: &str) -> Vec<i64> {
    tensors[name].flatten_all().unwrap().to_vec1().unwrap()
}

fn golden() -> (Value, std::collections::HashMap<String, Tensor>) {
    let settings = std::fs::read(golden_dir().join("golden_meta.json")).unwrap();
    let tensors =
        candle_core::safetensors::load(golden_dir().join("golden.safetensors"), &Device::Cpu).unwrap();
    (serde_json::from_slice(&settings).unwrap(), tensors)
}

#[test]
fn sparse_settings_trace_what_they_name() {
    let (settings, expected) = golden();
    // no list of pictures, no special ids, no batch, no demo; a key that nobody knows
    let sparse = json!({ "s1": { "single": settings["s1"]["single"], "season": "winter" } });
    let found = trace_with(&sparse, None);
    for name in ["s1/single0/greedy_ids", "s1/single2/greedy_ids"] {
        assert_eq!(ids(&found, name), ids(&expected, name), "{name}");
    }
    for name in ["img0/decoded_rgb_u8", "img2/decoded_rgb_u8"] {
        assert_eq!(found[name].dims(), expected[name].dims(), "{name}");
    }
    assert!(!found.keys().any(|name| name.starts_with("s1/batch")));
}

#[test]
fn pictures_keep_the_order_of_the_settings() {
    let (mut settings, expected) = golden();
    let images: Vec<Value> = settings["images"].as_array().unwrap().iter().rev().cloned().collect();
    settings["images"] = images.into();
    let found = trace_with(&settings, None);
    assert_eq!(found["img0/decoded_rgb_u8"].dims(), expected["img2/decoded_rgb_u8"].dims());
    assert_eq!(found["img2/decoded_rgb_u8"].dims(), expected["img0/decoded_rgb_u8"].dims());
}

#[test]
fn the_first_of_several_ends_of_text_ends_a_row() {
    let (settings, expected) = golden();
    let whole = ids(&expected, "s1/single1/greedy_ids");
    let (end, other) = (whole[3], whole[4]);
    assert!(whole[1..3].iter().all(|id| *id != end));
    let found = trace_with(&settings, Some(json!([end, other])));
    assert_eq!(ids(&found, "s1/single1/greedy_ids"), whole[..4]);
}
