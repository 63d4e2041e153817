//! The published network's language model beside Phi-2 in llama.cpp, both with random weights.
//!
//! `cargo bench -p captionfleet-model --bench language [-- PYTHON [TYPE [LAYERS]]]`
//!
//! `PYTHON` is an interpreter with llama-cpp-python and gguf (`python3` otherwise; without them only our own figures are
//! printed), `TYPE` one of ours alone, `LAYERS` fewer layers than the network has, for a small machine. Medians of five rounds, ours and llama.cpp's by
//! turns, on all cores. Our network does more: three more norms in every layer.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, unreachable_pub)]

mod peer;

use std::time::Instant;

use candle_core::{DType, Device};
use captionfleet_model::bundle::Bundle;
use captionfleet_model::pack::{RandomRequest, WeightFormat, pack_random};
use captionfleet_model::{DecodeRow, KvCache, ModelConfig, PrefillRow, TinyGptV};
use peer::{Peer, median};

const ROUNDS: usize = 5;
/// Tokens of a prompt: the picture and a usual question.
const PROMPT: usize = 64;
/// Tokens before those that are decoded: few, so that the bench is soon done.
const BEFORE: usize = 16;
/// Decode steps in a row, of which the median counts.
const STEPS: usize = 8;
const ROWS: [usize; 4] = [1, 4, 8, 16];

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let python = words.next().unwrap_or_else(|| "python3".to_owned());
    let only = words.next().unwrap_or_default();
    let layers: usize = words.next().map_or(32, |layers| layers.parse().expect("a number of layers"));
    let threads = rayon::current_num_threads();
    println!("{layers} layers of Phi-2, {threads} threads, medians of {ROUNDS} rounds, tokens a second");
    println!("ours   llama.cpp  step          ours   llama.cpp   ratio");
    for (ours, theirs) in [(WeightFormat::Q8_0, "Q8_0"), (WeightFormat::Q4_0, "Q4_K")] {
        if !ours.to_string().contains(&only) {
            continue;
        }
        let (threads, layers_word) = (threads.to_string(), layers.to_string());
        let program = include_str!("peer/llama.py");
        let mut llama = Peer::start(&python, program, &[theirs, &threads, &layers_word]);
        // Loads, and chooses kernels.
        let _ = llama.as_mut().and_then(|llama| llama.seconds("prefill 8"));
        let model = language(ours, layers);
        let mut compare = |step: String, tokens: usize, mut run: Box<dyn FnMut() -> f64 + '_>| {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                times[0].push(run());
                times[1].push(llama.as_mut().and_then(|llama| llama.seconds(&step)).unwrap_or(f64::NAN));
            }
            let [us, them] = times.map(|times| tokens as f64 / median(times));
            println!(
                "{:<6} {theirs:<10} {step:<12} {us:6.1}   {them:9.1}   {:5.2}",
                ours.to_string(),
                us / them
            );
        };
        compare(format!("prefill {PROMPT}"), PROMPT, Box::new(|| prefill(&model)));
        for rows in ROWS {
            compare(format!("decode {rows} {BEFORE}"), rows, Box::new(|| decode(&model, rows)));
        }
    }
}

fn cache(model: &TinyGptV, rows: usize) -> KvCache {
    KvCache::new(&model.config().lm, rows, PROMPT + STEPS, DType::F32, model.device()).unwrap()
}

fn prefill(model: &TinyGptV) -> f64 {
    let (mut cache, embeds) = (cache(model, 1), model.embed_tokens(&[7; PROMPT]).unwrap());
    let since = Instant::now();
    model.prefill(&[PrefillRow { slot: 0, embeds }], &mut cache).unwrap();
    since.elapsed().as_secs_f64()
}

fn decode(model: &TinyGptV, rows: usize) -> f64 {
    let (mut cache, embeds) = (cache(model, rows), model.embed_tokens(&[7; BEFORE]).unwrap());
    let prompts: Vec<_> = (0..rows).map(|slot| PrefillRow { slot, embeds: embeds.clone() }).collect();
    model.prefill(&prompts, &mut cache).unwrap();
    let next: Vec<_> = (0..rows).map(|slot| DecodeRow { slot, token: 7 }).collect();
    let step = |_| {
        let since = Instant::now();
        model.decode(&next, &mut cache).unwrap();
        since.elapsed().as_secs_f64()
    };
    median((0..STEPS).map(step).collect())
}

/// The published network with one block of everything that is not the language model.
fn language(kind: WeightFormat, layers: usize) -> TinyGptV {
    let mut config = ModelConfig::tinygpt_v(224);
    config.vision.depth = 1;
    config.qformer.num_layers = 1;
    config.lm.num_layers = layers;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bundle");
    pack_random(&RandomRequest {
        config,
        stage: 3,
        tokenizer: include_bytes!("../../demo-model/tokenizer.json").to_vec(),
        text_tokenizer: None,
        weights: kind,
        vision_weights: WeightFormat::Q8_0,
        seed: 1,
        out: out.clone(),
    })
    .unwrap();
    Bundle::open(&out).unwrap().load(&Device::Cpu).unwrap().model
}
