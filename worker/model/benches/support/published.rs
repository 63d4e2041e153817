//! The published network, or a part of it, with drawn weights.
#![allow(clippy::unwrap_used, unreachable_pub)]

use candle_core::Device;
use captionfleet_model::bundle::Bundle;
use captionfleet_model::pack::{RandomRequest, WeightFormat, pack_random};
use captionfleet_model::{ModelConfig, TinyGptV};

/// The network as `smaller` leaves it, with the language model's and the vision tower's weights in these types.
pub fn published(
    smaller: impl FnOnce(&mut ModelConfig),
    weights: WeightFormat,
    vision_weights: WeightFormat,
) -> TinyGptV {
    let mut config = ModelConfig::tinygpt_v(224);
    smaller(&mut config);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    let text_tokenizer = config.retrieval.is_some();
    let text_tokenizer =
        text_tokenizer.then(|| include_bytes!("../../../demo-model/text_tokenizer.json").to_vec());
    pack_random(&RandomRequest {
        config,
        stage: 3,
        tokenizer: include_bytes!("../../../demo-model/tokenizer.json").to_vec(),
        text_tokenizer,
        weights,
        vision_weights,
        seed: 1,
        out: out.clone(),
    })
    .unwrap();
    Bundle::open(&out).unwrap().load(&Device::Cpu).unwrap().model
}

/// The middle one.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
