//! Products beside candle's, in one run: `cargo bench -p captionfleet-kernels [-- THREADS [FILTER [BACKEND]]]`.
//!
//! `THREADS` is 0 for all cores, `FILTER` a part of a case's name and format, `BACKEND` one of ours: `portable`, `avx2`, `avx512`,
//! `avx512bf16` or `amx`, and the fastest for a few rows otherwise.
//!
//! A stack of matrices larger than the caches is multiplied in turn, as a network does; every figure
//! is the best of several rounds, ours and candle's by turns. `GB/s` is what a pass over the packed
//! weights amounts to, to be held against the bandwidth printed first. Times are by the clock: on a
//! machine that does anything else, neither figures nor ratios mean much.
#![allow(clippy::print_stdout, clippy::unwrap_used)]
use std::{
    borrow::Cow,
    hint::black_box,
    time::{Duration, Instant},
};

use candle_core::{
    DType, Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};
use captionfleet_kernels::{Backend, Epilogue, Format, PackedMatrix};
use half::{bf16, f16};
use rayon::prelude::*;

/// Time given to each figure.
const BUDGET: Duration = Duration::from_millis(600);

struct Case {
    name: &'static str,
    formats: &'static [Format],
    /// `(outputs, inputs)` of the matrices that are multiplied in turn.
    shapes: &'static [(usize, usize)],
    /// How many of each.
    copies: usize,
    rows: &'static [usize],
}

const QUANTISED: &[Format] = &[Format::Q8_0, Format::Q4_0, Format::Q4K];

const CASES: &[Case] = &[
    Case {
        name: "phi-2 layers",
        formats: QUANTISED,
        shapes: &[(7680, 2560), (2560, 2560), (10240, 2560), (2560, 10240)],
        copies: 5,
        rows: &[1, 4, 8, 16, 64],
    },
    Case { name: "phi-2 head", formats: QUANTISED, shapes: &[(51200, 2560)], copies: 2, rows: &[1, 8] },
    Case {
        name: "ViT-g block",
        formats: &[Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_0],
        shapes: &[(4224, 1408), (1408, 1408), (6144, 1408), (1408, 6144)],
        copies: 2,
        rows: &[257, 1028, 2056],
    },
    Case {
        name: "tiny layers",
        formats: &[Format::F32, Format::F16, Format::Bf16, Format::Q8_0],
        shapes: &[(192, 64), (64, 64), (256, 64), (64, 256), (384, 128), (128, 384)],
        copies: 1,
        rows: &[1, 8, 65, 520],
    },
    Case {
        name: "vocabulary of a tiny model",
        formats: &[Format::F32, Format::Bf16, Format::Q8_0],
        shapes: &[(3000, 64)],
        copies: 1,
        rows: &[1, 16],
    },
];

fn main() {
    // `cargo bench` passes `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let threads: usize = arguments.next().map_or(0, |threads| threads.parse().expect("a number of threads"));
    let filter = arguments.next().unwrap_or_default();
    let backend = arguments.next().map_or_else(Backend::best, |name| backend(&name));
    // The pool is the global one, for candle takes no other.
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    println!("{backend:?} kernels, {} threads", rayon::current_num_threads());
    rayon::scope(|_| {
        println!("memory: {:.1} GB/s read", bandwidth());
        println!();
        println!(
            "| {:26} | format | rows | ours GFLOP/s | candle GFLOP/s | ratio | ours GB/s | candle |",
            "case"
        );
        println!("| {:-<26} | --- | ---: | ---: | ---: | ---: | ---: | --- |", "");
        for case in CASES {
            for &format in case.formats {
                if format!("{} {format}", case.name).contains(&filter) {
                    compare(case, format, backend);
                }
            }
        }
    });
}

fn backend(name: &str) -> Backend {
    let is_named = |backend: &Backend| format!("{backend:?}").eq_ignore_ascii_case(name);
    let named = Backend::ALL.into_iter().find(is_named).expect("portable, avx2, avx512, avx512bf16 or amx");
    assert!(named.is_available(), "this processor cannot run {named:?}");
    named
}

/// What all threads together read from memory.
fn bandwidth() -> f64 {
    let values = vec![1u64; 1 << 27];
    let bytes = size_of_val(values.as_slice());
    let part = values.len() / rayon::current_num_threads() / 8;
    let read = || {
        black_box(
            values.par_chunks(part).map(|part| part.iter().fold(0, |a, b| a ^ b)).reduce(|| 0, |a, b| a ^ b),
        );
    };
    bytes as f64 / best(&mut [&mut { read }])[0] / 1e9
}

fn compare(case: &Case, format: Format, backend: Backend) {
    let shapes = || case.shapes.iter().flat_map(|&shape| std::iter::repeat_n(shape, case.copies));
    let mut theirs = Vec::new();
    let mut ours = Vec::new();
    for (outputs, inputs) in shapes() {
        let stored = stored(format, outputs, inputs);
        ours.push(PackedMatrix::pack(format, &stored, outputs, inputs).unwrap());
        theirs.push(Theirs::new(format, stored, outputs, inputs));
    }
    let weights: usize = shapes().map(|(outputs, inputs)| outputs * inputs).sum();
    let bytes: usize = ours.iter().map(PackedMatrix::bytes).sum();
    for &rows in case.rows {
        let xs: Vec<Vec<f32>> = shapes().map(|(_, inputs)| activations(rows * inputs)).collect();
        let tensors: Vec<Tensor> = xs
            .iter()
            .map(|xs| Tensor::from_slice(xs, (rows, xs.len() / rows), &Device::Cpu).unwrap())
            .collect();
        let mut out: Vec<Vec<f32>> = shapes().map(|(outputs, _)| vec![0.0; rows * outputs]).collect();
        let mut ours_once = || {
            for ((matrix, xs), out) in ours.iter().zip(&xs).zip(&mut out) {
                matrix.multiply_on(backend, xs, None, Epilogue::None, out).unwrap();
            }
        };
        let mut theirs_once = || {
            for (matrix, xs) in theirs.iter().zip(&tensors) {
                black_box(matrix.multiply(xs));
            }
        };
        let seconds = best(&mut [&mut ours_once, &mut theirs_once]);
        let work = 2e-9 * (rows * weights) as f64;
        println!(
            "| {:26} | {:6} | {rows:4} | {:7.1} | {:7.1} | {:5.2} | {:5.1} | {} |",
            case.name,
            format.to_string(),
            work / seconds[0],
            work / seconds[1],
            seconds[1] / seconds[0],
            bytes as f64 * 1e-9 / seconds[0],
            theirs[0].name(),
        );
    }
}

/// Least seconds of each, by turns.
fn best(works: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut least = vec![f64::INFINITY; works.len()];
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || start.elapsed() < BUDGET * works.len() as u32 {
        for (least, work) in least.iter_mut().zip(&mut *works) {
            let start = Instant::now();
            work();
            *least = least.min(start.elapsed().as_secs_f64());
        }
        rounds += 1;
    }
    least
}

/// candle's matrix of the same weights; it multiplies no bf16, so that is f32 there.
enum Theirs {
    Quantised(QMatMul),
    Dense(Tensor),
}

impl Theirs {
    fn new(format: Format, stored: Vec<u8>, outputs: usize, inputs: usize) -> Self {
        let dtype = match format {
            Format::F32 => return Self::dense(&stored, DType::F32, outputs, inputs),
            Format::F16 => return Self::dense(&stored, DType::F16, outputs, inputs),
            Format::Bf16 => return Self::dense(&stored, DType::BF16, outputs, inputs),
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q4K => GgmlDType::Q4K,
        };
        let storage = QStorage::from_data(Cow::Owned(stored), &Device::Cpu, dtype).unwrap();
        let tensor = QTensor::new(storage, (outputs, inputs)).unwrap();
        Self::Quantised(QMatMul::from_qtensor(tensor).unwrap())
    }

    fn dense(stored: &[u8], dtype: DType, outputs: usize, inputs: usize) -> Self {
        let tensor = Tensor::from_raw_buffer(stored, dtype, &[outputs, inputs], &Device::Cpu).unwrap();
        let kept = if dtype == DType::BF16 { DType::F32 } else { dtype };
        Self::Dense(tensor.to_dtype(kept).unwrap())
    }

    fn multiply(&self, xs: &Tensor) -> Tensor {
        match self {
            Self::Quantised(weight) => weight.forward(xs).unwrap(),
            Self::Dense(weight) => {
                let xs = xs.to_dtype(weight.dtype()).unwrap();
                xs.matmul(&weight.t().unwrap()).unwrap().to_dtype(DType::F32).unwrap()
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Quantised(_) => "QMatMul",
            Self::Dense(weight) => weight.dtype().as_str(),
        }
    }
}

/// A stored matrix of numbers between -1 and 1.
fn stored(format: Format, outputs: usize, inputs: usize) -> Vec<u8> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut bytes = Vec::with_capacity(outputs * format.row_bytes(inputs).unwrap());
    for _ in 0..outputs * inputs / format.block_inputs() {
        let value = (next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let start = bytes.len();
        match format {
            Format::F32 => bytes.extend(value.to_le_bytes()),
            Format::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Format::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            Format::Q8_0 => bytes.extend(f16::from_f32(value / 127.0).to_le_bytes()),
            Format::Q4_0 => bytes.extend(f16::from_f32(value / 8.0).to_le_bytes()),
            Format::Q4K => {
                bytes.extend(f16::from_f32(value / 1000.0).to_le_bytes());
                bytes.extend(f16::from_f32(value / 1000.0).to_le_bytes());
            }
        }
        while bytes.len() < start + format.block_bytes() {
            let missing = start + format.block_bytes() - bytes.len();
            bytes.extend(&next().to_le_bytes()[..missing.min(8)]);
        }
    }
    bytes
}

fn activations(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 2003) as f32 / 1000.0 - 1.0).collect()
}
