//! Every tensor and id sequence of the reference's golden files, through the trace that
//! `worker trace` writes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::Device;
use captionfleet_model::trace::{self, Stage, Tolerance};

/// Traces a stage and compares it with the tensors of `golden` that `belongs` picks.
fn compare(stage: Stage, golden: &str, belongs: impl Fn(&str) -> bool, least: usize) {
    let golden_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trace.safetensors");
    let report = trace::run(&golden_dir, stage, &Device::Cpu, &out).unwrap();
    assert_eq!(report.pictures, 3);
    let comparison = trace::compare(&out, &golden_dir.join(golden), Tolerance::EXACT, belongs).unwrap();
    assert!(comparison.compared >= least, "{} tensors to compare", comparison.compared);
    assert!(comparison.failures.is_empty(), "{:#?}", comparison.failures);
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
