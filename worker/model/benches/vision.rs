//! Blocks of ViT-g in every type that weights are packed in, beside the same blocks in PyTorch.
//!
//! `cargo bench -p captionfleet-model --bench vision [-- PYTHON [BATCHES [TYPES [DEPTH]]]]`
//!
//! `PYTHON` is an interpreter that has torch (`python3` otherwise; without torch only our own figures are printed), `BATCHES`
//! sizes such as `1,4,8`, `TYPES` some of ours such as `f32,q8_0`, `DEPTH` the number of blocks: 4 otherwise, enough that their
//! weights do not stay in a cache; 39 are the whole tower. Figures are medians of five rounds, ours and PyTorch's by turns, on all
//! cores; the features' likeness is the smallest cosine of any token to the one in the first type.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "support/peer.rs"]
mod peer;
#[path = "support/published.rs"]
mod published;

use std::hint::black_box;
use std::time::Instant;

use candle_core::{Device, Tensor};
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::{ModelConfig, TinyGptV};
use peer::Peer;
use published::{median, published};

const ROUNDS: usize = 5;
const TYPES: &str = "f32,f16,bf16,q8_0";

/// Answers each line, a type and a batch size, with the seconds of one pass through the blocks.
const TORCH: &str = "
import sys, time, torch, torch.nn.functional as F
depth, threads = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads); torch.set_grad_enabled(False); torch.manual_seed(0)
D, H, M, N = 1408, 16, 6144, 257
types = {'f32': torch.float32, 'bf16': torch.bfloat16}
w = lambda o, i, t: ((torch.randn(o, i) * 0.02).to(t), torch.zeros(o, dtype=t))
blocks = {n: [[w(3 * D, D, t), w(D, D, t), w(M, D, t), w(D, M, t)] for _ in range(depth)] for n, t in types.items()}
ones = {n: (torch.ones(D, dtype=t), torch.zeros(D, dtype=t)) for n, t in types.items()}
def block(x, weights, norm):
    b = x.shape[0]
    qkv, proj, fc1, fc2 = weights
    q, k, v = F.linear(F.layer_norm(x, (D,), *norm, 1e-6), *qkv).view(b, N, 3, H, D // H).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v)
    x = x + F.linear(y.transpose(1, 2).reshape(b, N, D), *proj)
    return x + F.linear(F.gelu(F.linear(F.layer_norm(x, (D,), *norm, 1e-6), *fc1)), *fc2)
for line in sys.stdin:
    name, batch = line.split()
    x = torch.randn(int(batch), N, D).to(types[name])
    started = time.perf_counter()
    for weights in blocks[name]:
        x = block(x, weights, ones[name])
    print(time.perf_counter() - started, flush=True)
";

fn main() {
    // A product that is called from outside of the pool waits for one of its threads to wake.
    rayon::scope(|_| compare());
}

fn compare() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let python = words.next().unwrap_or_else(|| "python3".to_owned());
    let batches = words.next().unwrap_or_else(|| "1,4,8".to_owned());
    let types = words.next().unwrap_or_else(|| TYPES.to_owned());
    let types = types.split(',').map(|kind| kind.parse::<WeightFormat>().unwrap());
    let depth: usize = words.next().map_or(4, |depth| depth.parse().expect("a number of blocks"));
    let threads = rayon::current_num_threads();
    let mut torch = Peer::start(&python, TORCH, &[depth.to_string().as_ref(), threads.to_string().as_ref()]);
    // The first pass of each type chooses kernels.
    for kind in ["bf16 1", "f32 1"] {
        let _ = torch.as_mut().and_then(|torch| torch.seconds::<1>(kind));
    }
    let towers: Vec<(WeightFormat, TinyGptV)> = types.map(|kind| (kind, tower(kind, depth))).collect();
    println!("a block of ViT-g, of {depth} in a row, {threads} threads, medians of {ROUNDS} rounds, ms");
    println!("batch  type       ms   beside torch bf16   beside torch f32   least cosine to the first");
    for batch in batches.split(',').map(|batch| batch.parse::<usize>().unwrap()) {
        let pixels = Tensor::randn(0f32, 1.0, (batch, 3, 224, 224), &Device::Cpu).unwrap();
        let features: Vec<Tensor> =
            towers.iter().map(|(_, tower)| tower.vision_features(&pixels).unwrap()).collect();
        let mut ours = vec![Vec::new(); towers.len()];
        let mut theirs = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (times, (_, tower)) in ours.iter_mut().zip(&towers) {
                let since = Instant::now();
                black_box(tower.vision_features(&pixels).unwrap());
                times.push(since.elapsed().as_secs_f64());
            }
            for (times, kind) in theirs.iter_mut().zip(["bf16", "f32"]) {
                let answer = torch.as_mut().and_then(|torch| torch.seconds(&format!("{kind} {batch}")));
                times.push(answer.map_or(f64::NAN, |[seconds]| seconds));
            }
        }
        let theirs = theirs.map(median);
        for (((kind, _), times), found) in towers.iter().zip(ours).zip(&features) {
            let ours = median(times);
            println!(
                "{batch:5}  {:<6} {:8.2}   {:15.2} x   {:14.2} x   {:19.5}",
                kind.to_string(),
                1000.0 * ours / depth as f64,
                theirs[0] / ours,
                theirs[1] / ours,
                least_cosine(found, &features[0])
            );
        }
    }
}

/// The vision tower with so many blocks, and a language model that takes no memory.
fn tower(kind: WeightFormat, depth: usize) -> TinyGptV {
    let smaller = |config: &mut ModelConfig| {
        config.vision.depth = depth;
        config.qformer.num_layers = 1;
        config.lm.num_layers = 1;
    };
    published(smaller, WeightFormat::Q4_0, kind)
}

fn least_cosine(found: &Tensor, expected: &Tensor) -> f32 {
    let dot = |one: &Tensor, other: &Tensor| (one * other).unwrap().sum(2).unwrap();
    let norms = (dot(found, found) * dot(expected, expected)).unwrap().sqrt().unwrap();
    let cosines = (dot(found, expected) / norms).unwrap();
    cosines.flatten_all().unwrap().min(0).unwrap().to_scalar().unwrap()
}
