//! The published network's language model beside Phi-2 in llama.cpp, both with random weights.
//!
//! `cargo bench -p captionfleet-model --bench language [-- PYTHON [TYPE [LAYERS]]]`
//!
//! `PYTHON` is an interpreter with llama-cpp-python and gguf (`python3` otherwise; without them only our own figures are
//! printed), `TYPE` (q8_0 or q4_0) one of ours alone, `LAYERS` fewer layers than the network has, for a small machine.
//! Medians of five rounds, ours and llama.cpp's by turns, on all cores. Our network does more: three more norms in every layer.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/peer.rs"]
mod peer;
#[path = "support/published.rs"]
mod published;

use std::time::Instant;

use candle_core::DType;
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::{DecodeRow, KvCache, ModelConfig, PrefillRow, TinyGptV};
use peer::Peer;
use published::{median, published};

const ROUNDS: usize = 5;
/// Tokens of a prompt: the picture and a usual question.
const PROMPT: usize = 64;
/// Tokens before those that are decoded: few, so that the bench is soon done.
const BEFORE: usize = 16;
/// Decode steps in a row, of which the median counts.
const STEPS: usize = 8;
const ROWS: [usize; 4] = [1, 4, 8, 16];

fn main() {
    // As the engine does: a product that is called from outside of the pool waits for one of its threads to wake.
    rayon::scope(|_| beside_llama());
}

fn beside_llama() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let python = words.next().unwrap_or_else(|| "python3".to_owned());
    let only = words.next().map(|kind| kind.parse::<WeightFormat>().expect("q8_0 or q4_0"));
    let layers: usize = words.next().map_or(32, |layers| layers.parse().expect("a number of layers"));
    let threads = rayon::current_num_threads();
    println!("{layers} layers of Phi-2, {threads} threads, medians of {ROUNDS} rounds, tokens a second");
    println!("ours   llama.cpp  step          ours   llama.cpp   ratio");
    for (ours, theirs) in [(WeightFormat::Q8_0, "Q8_0"), (WeightFormat::Q4_0, "Q4_K")] {
        if only.is_some_and(|only| only != ours) {
            continue;
        }
        let arguments = [theirs, &threads.to_string(), &layers.to_string()].map(str::to_owned);
        let mut llama =
            Peer::start(&python, include_str!("support/llama.py"), &arguments.each_ref().map(AsRef::as_ref));
        // Loads, and chooses kernels.
        let _ = llama.as_mut().and_then(|llama| llama.seconds::<1>("prefill 8"));
        let model = language(ours, layers);
        let mut compare = |step: &str, tokens: usize, run: &dyn Fn() -> f64| {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                times[0].push(run());
                let answer = llama.as_mut().and_then(|llama| llama.seconds(step));
                times[1].push(answer.map_or(f64::NAN, |[seconds]| seconds));
            }
            let [us, them] = times.map(|times| tokens as f64 / median(times));
            println!(
                "{:<6} {theirs:<10} {step:<12} {us:6.1}   {them:9.1}   {:5.2}",
                ours.to_string(),
                us / them
            );
        };
        compare(&format!("prefill {PROMPT}"), PROMPT, &|| prefill(&model));
        for rows in ROWS {
            compare(&format!("decode {rows} {BEFORE}"), rows, &|| decode(&model, rows));
        }
    }
}

fn cache(model: &TinyGptV, rows: usize) -> KvCache {
    KvCache::new(&model.config().lm, rows, PROMPT + STEPS, DType::F32, model.device()).unwrap()
}

fn prefill(model: &TinyGptV) -> f64 {
    let (mut cache, embeds) = (cache(model, 1), model.embed_tokens(&[7; PROMPT]).unwrap());
    let since = Instant::now();
    model.prefill(&[PrefillRow { slot: 0, embeds, adapter: None }], &mut cache).unwrap();
    since.elapsed().as_secs_f64()
}

fn decode(model: &TinyGptV, rows: usize) -> f64 {
    let (mut cache, embeds) = (cache(model, rows), model.embed_tokens(&[7; BEFORE]).unwrap());
    let prompts: Vec<_> =
        (0..rows).map(|slot| PrefillRow { slot, embeds: embeds.clone(), adapter: None }).collect();
    model.prefill(&prompts, &mut cache).unwrap();
    let next: Vec<_> = (0..rows).map(|slot| DecodeRow { slot, token: 7 }).collect();
    let step = |_| {
        let since = Instant::now();
        model.decode(&next, &mut cache).unwrap();
        since.elapsed().as_secs_f64()
    };
    median((0..STEPS).map(step).collect())
}

/// The language model, with one block of everything else.
fn language(kind: WeightFormat, layers: usize) -> TinyGptV {
    let smaller = |config: &mut ModelConfig| {
        config.vision.depth = 1;
        config.qformer.num_layers = 1;
        config.lm.num_layers = layers;
    };
    published(smaller, kind, WeightFormat::Q8_0)
}
