//! A whole picture on the published network: vision, embedding for search, prompt and thirty tokens, beside PyTorch in bf16.
//!
//! `cargo bench -p captionfleet-model --bench picture [-- PYTHON [SIDE [BATCHES [TYPES]]]]`
//!
//! `PYTHON` is an interpreter with torch and transformers (`python3` otherwise; without them only our own figures are printed),
//! `SIDE` the picture's in pixels (224 or 448), `BATCHES` sizes such as `1,8`, `TYPES` those of the vision tower such as
//! `q8_0,f16`; the language model is in Q8_0. Medians of five rounds, ours and PyTorch's by turns, on all cores, weights drawn.
//! Ours takes about 6 GiB and PyTorch 9.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/peer.rs"]
mod peer;
#[path = "support/published.rs"]
mod published;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::{DecodeRow, KvCache, ModelConfig, PrefillRow, RetrievalConfig, TinyGptV};
use peer::Peer;
use published::{median, published};

const ROUNDS: usize = 5;
/// Tokens of the prompt beside the picture's 32.
const PROMPT: usize = 20;
const TOKENS: usize = 30;

fn main() {
    // As the engine does: a product that is called from outside of the pool waits for one of its threads to wake.
    rayon::scope(|_| compare());
}

fn compare() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let python = words.next().unwrap_or_else(|| "python3".to_owned());
    let side: usize = words.next().map_or(224, |side| side.parse().expect("224 or 448"));
    let batches = words.next().unwrap_or_else(|| "1,8".to_owned());
    let types = words.next().unwrap_or_else(|| "q8_0".to_owned());
    let types = types.split(',').map(|kind| kind.parse::<WeightFormat>().unwrap());
    let threads = rayon::current_num_threads();
    let arguments = [threads, 39, 12, 32].map(|number| number.to_string());
    let program = include_str!("support/picture.py");
    let mut torch = Peer::start(&python, program, &arguments.each_ref().map(AsRef::as_ref));
    // Draws the weights and chooses kernels.
    let _ = torch.as_mut().and_then(|torch| torch.seconds::<1>(&format!("1 {side} {PROMPT} 2")));
    println!("a picture of {side} px, {TOKENS} tokens, {threads} threads, medians of {ROUNDS} rounds");
    println!("tower  batch   ours s a picture   torch bf16 s a picture   ratio");
    for tower in types {
        let model = published(|config| dimensions(config, side), WeightFormat::Q8_0, tower);
        for batch in batches.split(',').map(|batch| batch.parse::<usize>().unwrap()) {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                times[0].push(caption(&model, side, batch));
                let question = format!("{batch} {side} {PROMPT} {TOKENS}");
                let answer = torch.as_mut().and_then(|torch| torch.seconds(&question));
                times[1].push(answer.map_or(f64::NAN, |[seconds]| seconds));
            }
            let [us, them] = times.map(|times| median(times) / batch as f64);
            println!("{:<6} {batch:5}   {us:16.3}   {them:22.3}   {:5.2}", tower.to_string(), them / us);
        }
    }
}

fn dimensions(config: &mut ModelConfig, side: usize) {
    config.image_size = side;
    config.retrieval = Some(RetrievalConfig::blip2_itm_vit_g());
}

/// Seconds from pixels to the last token and the embedding.
fn caption(model: &TinyGptV, side: usize, batch: usize) -> f64 {
    let pixels = |side| Tensor::randn(0f32, 1.0, (batch, 3, side, side), &Device::Cpu).unwrap();
    let head = model.retrieval().unwrap();
    let (pixels, small) = (pixels(side), pixels(head.config().image_size));
    let length = 32 + PROMPT + TOKENS;
    let mut cache = KvCache::new(&model.config().lm, batch, length, DType::F32, model.device()).unwrap();
    let since = Instant::now();
    let features = model.vision_features(&pixels).unwrap();
    // A picture of another size is looked at twice.
    let seen =
        if model.shares_vision_pass() { features.clone() } else { model.retrieval_features(&small).unwrap() };
    head.image_embeddings(&seen).unwrap();
    let pictures = model.image_tokens(&features).unwrap();
    let words = model.embed_tokens(&[7; PROMPT]).unwrap();
    let prompts: Vec<_> = (0..batch)
        .map(|slot| {
            let embeds = Tensor::cat(&[&pictures.get(slot).unwrap(), &words], 0).unwrap();
            PrefillRow { slot, embeds, adapter: None }
        })
        .collect();
    model.prefill(&prompts, &mut cache).unwrap();
    let next: Vec<_> = (0..batch).map(|slot| DecodeRow { slot, token: 7 }).collect();
    for _ in 1..TOKENS {
        model.decode(&next, &mut cache).unwrap();
    }
    since.elapsed().as_secs_f64()
}
