//! The layout of packed weights.
//!
//! A tile is [`TILE`] outputs and all their inputs; it is a run of cells, each the weights of the
//! next few inputs for all outputs of the tile. A kernel reads the cells of a tile one after the
//! other, with the outputs in the lanes of its vectors.
use crate::{
    Format,
    half_bits::{bf16_to_f32, f16_to_f32},
};

/// Outputs of a tile. The last tile of a matrix is filled up with zeros.
pub(crate) const TILE: usize = 32;

/// Sums of one row for the outputs of a tile.
pub(crate) type Sums = [f32; TILE];

/// A step of a tile.
pub(crate) trait Cell: Copy + Send + Sync + 'static {
    /// What the weights are stored as.
    const FORMAT: Format;
    /// Inputs of the cell.
    const INPUTS: usize;
    /// Weights that add nothing.
    const ZERO: Self;

    /// Puts the stored weights of one output into its lane. A cell of more than one unblocked input
    /// may get fewer at the end of a row.
    fn put(&mut self, lane: usize, stored: &[u8]);

    /// Writes the values of that lane, as many as asked for.
    fn get(&self, lane: usize, values: &mut [f32]);
}

/// One input.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct F32Cell(pub(crate) [f32; TILE]);

impl Cell for F32Cell {
    const FORMAT: Format = Format::F32;
    const INPUTS: usize = 1;
    const ZERO: Self = Self([0.0; TILE]);

    fn put(&mut self, lane: usize, stored: &[u8]) {
        if let [a, b, c, d] = *stored {
            self.0[lane] = f32::from_le_bytes([a, b, c, d]);
        }
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        values.fill(self.0[lane]);
    }
}

/// One input.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct F16Cell(pub(crate) [u16; TILE]);

impl Cell for F16Cell {
    const FORMAT: Format = Format::F16;
    const INPUTS: usize = 1;
    const ZERO: Self = Self([0; TILE]);

    fn put(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = half(stored, 0);
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        values.fill(f16_to_f32(self.0[lane]));
    }
}

/// Two inputs, side by side as the bf16 product of pairs takes them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Bf16Cell(pub(crate) [[u16; 2]; TILE]);

impl Cell for Bf16Cell {
    const FORMAT: Format = Format::Bf16;
    const INPUTS: usize = 2;
    const ZERO: Self = Self([[0; 2]; TILE]);

    fn put(&mut self, lane: usize, stored: &[u8]) {
        self.0[lane] = [half(stored, 0), half(stored, 2)];
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        for (value, &weight) in values.iter_mut().zip(&self.0[lane]) {
            *value = bf16_to_f32(weight);
        }
    }
}

/// Integers of 32 inputs, four inputs side by side, as the product of bytes takes them: by groups
/// of four inputs, then by halves of the tile.
pub(crate) type Quads = [[[[u8; 4]; TILE / 2]; 2]; 8];

/// 32 inputs: `scale * (quant - 128)`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q8Cell {
    pub(crate) scales: [u16; TILE],
    pub(crate) quants: Quads,
}

impl Cell for Q8Cell {
    const FORMAT: Format = Format::Q8_0;
    const INPUTS: usize = 32;
    const ZERO: Self = Self { scales: [0; TILE], quants: [[[[128; 4]; TILE / 2]; 2]; 8] };

    fn put(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = half(stored, 0);
        let (half, lane) = (lane / 16, lane % 16);
        for (group, quants) in self.quants.iter_mut().zip(stored[2..].as_chunks().0) {
            group[half][lane] = quants.map(|quant| quant ^ 0x80);
        }
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        let scale = f16_to_f32(self.scales[lane]);
        for (i, value) in values.iter_mut().enumerate() {
            let quant = self.quants[i / 4][lane / 16][lane % 16][i % 4];
            *value = scale * (f32::from(quant) - 128.0);
        }
    }
}

/// Integers of 32 inputs in 4 bits, by groups of four inputs; lower halves of the bytes belong to
/// the first half of the tile.
pub(crate) type Nibbles = [[[u8; 4]; TILE / 2]; 8];

fn put_nibble(nibbles: &mut Nibbles, lane: usize, input: usize, quant: u8) {
    let byte = &mut nibbles[input / 4][lane % 16][input % 4];
    *byte = if lane < 16 { *byte & 0xf0 | quant } else { *byte & 0x0f | quant << 4 };
}

fn nibble(nibbles: &Nibbles, lane: usize, input: usize) -> f32 {
    let byte = nibbles[input / 4][lane % 16][input % 4];
    f32::from(if lane < 16 { byte & 0x0f } else { byte >> 4 })
}

/// 32 inputs: `scale * (quant - 8)`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q4Cell {
    pub(crate) scales: [u16; TILE],
    pub(crate) quants: Nibbles,
}

impl Cell for Q4Cell {
    const FORMAT: Format = Format::Q4_0;
    const INPUTS: usize = 32;
    const ZERO: Self = Self { scales: [0; TILE], quants: [[[0x88; 4]; TILE / 2]; 8] };

    fn put(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = half(stored, 0);
        for (i, &byte) in stored[2..].iter().enumerate() {
            put_nibble(&mut self.quants, lane, i, byte & 0x0f);
            put_nibble(&mut self.quants, lane, i + 16, byte >> 4);
        }
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        let scale = f16_to_f32(self.scales[lane]);
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * (nibble(&self.quants, lane, i) - 8.0);
        }
    }
}

/// 256 inputs: `scale * block scale * quant - offset * block offset`. The 6-bit scales and offsets
/// take a byte each (4.625 bits a weight instead of 4.5), which saves taking them apart in every
/// product.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q4KCell {
    pub(crate) scales: [u16; TILE],
    pub(crate) offsets: [u16; TILE],
    pub(crate) blocks: [Q4KBlock; 8],
}

/// 32 inputs of a [`Q4KCell`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q4KBlock {
    pub(crate) scales: [u8; TILE],
    pub(crate) offsets: [u8; TILE],
    pub(crate) quants: Nibbles,
}

impl Cell for Q4KCell {
    const FORMAT: Format = Format::Q4K;
    const INPUTS: usize = 256;
    const ZERO: Self = Self {
        scales: [0; TILE],
        offsets: [0; TILE],
        blocks: [Q4KBlock { scales: [0; TILE], offsets: [0; TILE], quants: [[[0; 4]; TILE / 2]; 8] }; 8],
    };

    fn put(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = half(stored, 0);
        self.offsets[lane] = half(stored, 2);
        let (packed, quants) = stored[4..].split_at(12);
        for (j, block) in self.blocks.iter_mut().enumerate() {
            // Six bits each: the first four blocks in the lower bits of bytes 0 to 7, the others in
            // bytes 8 to 11 and what is left above.
            (block.scales[lane], block.offsets[lane]) = if j < 4 {
                (packed[j] & 63, packed[j + 4] & 63)
            } else {
                (packed[j + 4] & 0x0f | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
            };
            for (i, &byte) in quants[j / 2 * 32..][..32].iter().enumerate() {
                put_nibble(&mut block.quants, lane, i, if j % 2 == 0 { byte & 0x0f } else { byte >> 4 });
            }
        }
    }

    fn get(&self, lane: usize, values: &mut [f32]) {
        let (scale, offset) = (f16_to_f32(self.scales[lane]), f16_to_f32(self.offsets[lane]));
        for (values, block) in values.chunks_mut(32).zip(&self.blocks) {
            let scale = scale * f32::from(block.scales[lane]);
            let offset = offset * f32::from(block.offsets[lane]);
            for (i, value) in values.iter_mut().enumerate() {
                *value = scale * nibble(&block.quants, lane, i) - offset;
            }
        }
    }
}

/// Two bytes of `stored` at `at`, or zero beyond its end.
fn half(stored: &[u8], at: usize) -> u16 {
    stored.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}
