//! Every tensor and id sequence of the reference's golden files, through the trace that
//! `worker trace` writes.
#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use captionfleet_model::trace::{self, Stage};

/// Largest accepted distance of logits, as the goldens suggest.
const LOGITS: f32 = 2e-4;
/// Largest accepted distance of everything else.
const OTHERS: f32 = 5e-5;

fn golden_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Traces a stage and compares it with the tensors of `golden` that `belongs` picks.
fn compare(stage: Stage, golden: &str, belongs: impl Fn(&str) -> bool, least: usize) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trace.safetensors");
    let report = trace::run(&golden_dir(), stage, &out).unwrap();
    assert_eq!(report.pictures, 3);
    let found = candle_core::safetensors::load(&out, &Device::Cpu).unwrap();
    assert_eq!(report.tensors, found.len());
    let golden = candle_core::safetensors::load(golden_dir().join(golden), &Device::Cpu).unwrap();
    let expected: Vec<(&String, &Tensor)> = golden.iter().filter(|(name, _)| belongs(name)).collect();
    assert!(expected.len() >= least, "{} tensors to compare", expected.len());
    let mut failures = Vec::new();
    for (name, expected) in expected {
        let verdict = match found.get(name) {
            None => Err("it is not in the trace".to_owned()),
            Some(found) => compare_tensors(name, expected, found, &golden),
        };
        if let Err(reason) = verdict {
            failures.push(format!("{name}: {reason}"));
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "{failures:#?}");
}

fn compare_tensors(
    name: &str,
    expected: &Tensor,
    found: &Tensor,
    golden: &HashMap<String, Tensor>,
) -> Result<(), String> {
    if (expected.dims(), expected.dtype()) != (found.dims(), found.dtype()) {
        return Err(format!("{expected:?} was expected, not {found:?}"));
    }
    if expected.dtype() != DType::F32 {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_dtype(DType::I64).unwrap();
        let (expected, found) = (flat(expected).to_vec1::<i64>(), flat(found).to_vec1::<i64>());
        return if expected.unwrap() == found.unwrap() { Ok(()) } else { Err("it differs".to_owned()) };
    }
    let mut distance = (expected - found).unwrap().abs().unwrap();
    // Positions of padding mean nothing; the reference leaves there whatever comes of it.
    if let Some(mask) =
        name.rsplit_once('/').and_then(|(run, _)| golden.get(&format!("{run}/lm_attention_mask")))
        && mask.rank() + 1 == distance.rank()
    {
        let mask = mask.to_dtype(DType::F32).unwrap().unsqueeze(mask.rank()).unwrap();
        distance = distance.broadcast_mul(&mask).unwrap();
    }
    let largest = distance
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .into_iter()
        .fold(0f32, |largest, value| if value.is_nan() { f32::NAN } else { largest.max(value) });
    let limit = if name.contains("logits") { LOGITS } else { OTHERS };
    if largest <= limit { Ok(()) } else { Err(format!("off by {largest}")) }
}

#[test]
fn stage_1() {
    compare(Stage::S1, "golden.safetensors", |name| name.starts_with("s1/"), 45);
}

#[test]
fn stage_3_and_decoded_pictures() {
    let belongs = |name: &str| name.starts_with("s3/") || name.starts_with("img");
    compare(Stage::S3, "golden.safetensors", belongs, 85);
}

#[test]
fn stage_4() {
    compare(Stage::S4, "golden.safetensors", |name| name.starts_with("s4/"), 75);
}

#[test]
fn retrieval_heads() {
    compare(Stage::Itc, "golden_itc.safetensors", |_| true, 11);
}
