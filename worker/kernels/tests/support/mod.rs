//! Random matrices and the plain arithmetic they are checked against.
#![allow(dead_code, reason = "every test takes what it needs")]
#![allow(clippy::unwrap_used)]
use captionfleet_kernels::{Backend, Format, PackedMatrix};
use half::{bf16, f16};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A stored matrix and its values.
pub(crate) struct Stored {
    pub(crate) format: Format,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) bytes: Vec<u8>,
    /// `(outputs, inputs)`, from the definition of the format.
    pub(crate) values: Vec<f64>,
}

impl Stored {
    /// Random weights of about `size`.
    pub(crate) fn random(format: Format, outputs: usize, inputs: usize, size: f32, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let blocks = outputs * inputs / format.block_inputs();
        let bytes: Vec<u8> = (0..blocks).flat_map(|_| random_block(format, size, &mut rng)).collect();
        Self::new(format, outputs, inputs, bytes)
    }

    pub(crate) fn new(format: Format, outputs: usize, inputs: usize, bytes: Vec<u8>) -> Self {
        let values = bytes.chunks(format.block_bytes()).flat_map(|block| values(format, block)).collect();
        Self { format, outputs, inputs, bytes, values }
    }

    pub(crate) fn pack(&self) -> PackedMatrix {
        PackedMatrix::pack(self.format, &self.bytes, self.outputs, self.inputs).unwrap()
    }

    /// The product in f64, and for every value of it how far a backend's may be away.
    pub(crate) fn product(&self, xs: &[f32], bias: Option<&[f32]>, backend: Backend) -> Vec<(f64, f64)> {
        let mut product = Vec::new();
        for x in xs.chunks(self.inputs) {
            for (output, weights) in self.values.chunks(self.inputs).enumerate() {
                let bias = bias.map_or(0.0, |bias| f64::from(bias[output]));
                let (sum, bound) = self.dot(weights, x, backend);
                product.push((sum + bias, bound + bias.abs() * 1e-6));
            }
        }
        product
    }

    fn dot(&self, weights: &[f64], x: &[f32], backend: Backend) -> (f64, f64) {
        let (mut sum, mut size) = (0.0, 0.0);
        for (w, &x) in weights.iter().zip(x) {
            sum += w * f64::from(x);
            size += (w * f64::from(x)).abs();
        }
        // Rounding of the activations, then of the sums.
        let rounding = match self.format {
            Format::Bf16 if matches!(backend, Backend::Avx512Bf16 | Backend::Amx) => size / 256.0,
            Format::F32 | Format::F16 | Format::Bf16 => 0.0,
            // Both operands, the weights' value rather than their integer.
            Format::Q8_0 | Format::Q4_0 | Format::Q4K if backend == Backend::Amx => size / 127.0,
            Format::Q8_0 | Format::Q4_0 | Format::Q4K => weights
                .chunks(32)
                .zip(x.chunks(32))
                .map(|(weights, x)| {
                    let largest = x.iter().fold(0.0, |most: f64, &x| most.max(f64::from(x).abs()));
                    weights.iter().map(|w| w.abs()).sum::<f64>() * largest / 253.0
                })
                .sum(),
        };
        // Offsets of Q4_K cancel.
        let size = if self.format == Format::Q4K { 4.0 * size + 20.0 * rounding } else { size };
        (sum, rounding + size * (x.len() as f64 + 8.0) * 6e-8 + 1e-36)
    }
}

fn random_block(format: Format, size: f32, rng: &mut StdRng) -> Vec<u8> {
    let value = rng.random_range(-size..size);
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    match format {
        Format::F32 => value.to_le_bytes().to_vec(),
        Format::F16 => half(value).to_vec(),
        Format::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        Format::Q8_0 | Format::Q4_0 => {
            let mut block = half(value / if format == Format::Q8_0 { 127.0 } else { 8.0 }).to_vec();
            block.extend((2..format.block_bytes()).map(|_| rng.random::<u8>()));
            block
        }
        Format::Q4K => {
            let mut block = half(value.abs() / 500.0).to_vec();
            block.extend(half(value.abs() / 60.0));
            block.extend((4..format.block_bytes()).map(|_| rng.random::<u8>()));
            block
        }
    }
}

fn values(format: Format, block: &[u8]) -> Vec<f64> {
    let half = |at: usize| f64::from(f16::from_le_bytes([block[at], block[at + 1]]).to_f32());
    match format {
        Format::F32 => vec![f64::from(f32::from_le_bytes([block[0], block[1], block[2], block[3]]))],
        Format::F16 => vec![half(0)],
        Format::Bf16 => vec![f64::from(bf16::from_le_bytes([block[0], block[1]]).to_f32())],
        Format::Q8_0 => block[2..].iter().map(|&q| half(0) * f64::from(q as i8)).collect(),
        Format::Q4_0 => {
            let low = block[2..].iter().map(|q| q & 15);
            let high = block[2..].iter().map(|q| q >> 4);
            low.chain(high).map(|q| half(0) * (f64::from(q) - 8.0)).collect()
        }
        Format::Q4K => {
            let (packed, quants) = (&block[4..16], &block[16..]);
            (0..256)
                .map(|i| {
                    let j = i / 32;
                    let (scale, offset) = if j < 4 {
                        (packed[j] & 63, packed[j + 4] & 63)
                    } else {
                        (
                            (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
                            (packed[j + 4] >> 4) | (packed[j] >> 6 << 4),
                        )
                    };
                    let byte = quants[i / 64 * 32 + i % 32];
                    let quant = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
                    half(0) * f64::from(scale) * f64::from(quant) - half(2) * f64::from(offset)
                })
                .collect()
        }
    }
}

/// Random activations of about `size`.
pub(crate) fn activations(count: usize, size: f32, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-size..size)).collect()
}

/// The back ends that this processor can run.
pub(crate) fn backends() -> impl Iterator<Item = Backend> {
    Backend::ALL.into_iter().filter(|backend| backend.is_available())
}

/// `inputs` rounded up to what the format stores.
pub(crate) fn whole(format: Format, inputs: usize) -> usize {
    inputs.next_multiple_of(format.block_inputs())
}

/// Runs on a pool of `threads` threads.
pub(crate) fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
