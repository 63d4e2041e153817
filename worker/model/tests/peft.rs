//! Adapters that PEFT trained in PyTorch (`tests/peft/peft_check.py`), served here with the logits that PyTorch computes.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::checkpoint::{self, GoldenStage};
use captionfleet_model::{Adapter, DecodeRow, KvCache, PrefillRow, TinyGptV};

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

/// Logits of every position: one prefill of a third, then token by token, as a worker goes on.
fn logits(model: &TinyGptV, ids: &[u32], adapter: Option<&Arc<Adapter>>) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(&model.config().lm, 1, ids.len(), DType::F32, &Device::Cpu).unwrap();
    let (first, rest) = ids.split_at(ids.len() / 3);
    let embeds = model.embed_tokens(first).unwrap();
    let row = PrefillRow { slot: 0, embeds, adapter: adapter.cloned() };
    let mut logits = vec![model.prefill(&[row], &mut cache).unwrap()];
    for &token in rest {
        logits.push(model.decode(&[DecodeRow { slot: 0, token }], &mut cache).unwrap());
    }
    Tensor::cat(&logits, 0).unwrap().to_vec2().unwrap()
}

#[test]
fn adapters_of_peft_give_the_logits_of_pytorch() {
    let assembly = checkpoint::golden_dir(&tests().join("golden"), GoldenStage::Caption(3)).unwrap();
    let model = TinyGptV::load(&assembly.weights(&Device::Cpu).unwrap(), assembly.config()).unwrap();
    let expected: HashMap<String, Tensor> =
        candle_core::safetensors::load(tests().join("peft/logits.safetensors"), &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 11) % 470).collect();
    for name in ["plain", "fused", "split"] {
        let adapter = (name != "plain")
            .then(|| Arc::new(Adapter::open(&tests().join("peft").join(name), &model, "any base").unwrap()));
        let found = logits(&model, &ids, adapter.as_ref());
        let expected: Vec<Vec<f32>> = expected[name].to_vec2().unwrap();
        let (mut apart, mut largest) = (0f32, 0f32);
        for (found, expected) in found.iter().zip(&expected[ids.len() / 3 - 1..]) {
            for (found, expected) in found.iter().zip(expected) {
                apart = apart.max((found - expected).abs());
                largest = largest.max(expected.abs());
            }
        }
        assert!(apart < 1e-3 && largest > 5.0, "{name}: {apart} apart, logits up to {largest}");
    }
}
