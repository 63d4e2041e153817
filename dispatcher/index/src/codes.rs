//! Codes of an item's vectors: three layers, each of which refines the one before.
//!
//! A unit vector is turned by a fixed random rotation, after which its values are near to normally distributed. The
//! *first* layer keeps the sign of each value, the *second* the sign of what the first leaves over, the *third* the rest in
//! four bits with one scale for each vector: 6 bits for each value and 2 bytes for each vector, 6,208 bytes for 32 vectors
//! of 256 values.
//!
//! Vectors lie side by side in *lanes*, 32 to a block: byte `j` of lane `l` of a sign layer is at `32 j + l` and holds the
//! signs of the values `8 j … 8 j + 7`. An item whose vectors do not fill its last block repeats its first vector there,
//! which changes no maximum.

mod encode;
mod probe;
mod rotation;
mod signs;

pub use encode::{Encoder, ItemCodesMut};
pub use probe::{Probe, Scratch};

/// Vectors side by side.
pub const LANES: usize = 32;
/// Longest vector that has codes.
pub const MAX_DIM: usize = 1024;
/// What a sign of the first and of the second layer stands for, in standard deviations: the best two bits for normally
/// distributed values.
const WEIGHTS: [f32; 2] = [0.981_6, 0.528_9];
/// The middle of a four-bit number.
const MIDDLE: f32 = 7.5;

/// How the codes of one item are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Vectors of an item.
    pub vectors: usize,
    /// Values of a vector.
    pub dim: usize,
}

impl Shape {
    /// The shape of no vectors: what a segment without any is said to have.
    pub const LEAST: Self = Self { vectors: 1, dim: 8 };

    /// The shape, unless there are no codes for such vectors.
    pub fn new(vectors: usize, dim: usize) -> Option<Self> {
        ((1..=4096).contains(&vectors) && (1..=MAX_DIM).contains(&dim)).then_some(Self { vectors, dim })
    }

    /// Values of an item.
    pub fn len(self) -> usize {
        self.vectors * self.dim
    }

    /// Never: an item has at least one value.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Values of a rotated vector: a power of two.
    fn turned(self) -> usize {
        self.dim.next_power_of_two().max(8)
    }

    fn blocks(self) -> usize {
        self.vectors.div_ceil(LANES)
    }

    /// Bytes of one block in a sign layer.
    fn sign_block(self) -> usize {
        LANES * self.turned() / 8
    }

    /// Bytes of an item in each of the two sign layers.
    pub fn sign_bytes(self) -> usize {
        self.blocks() * self.sign_block()
    }

    /// Bytes of an item in the third layer.
    pub fn rest_bytes(self) -> usize {
        self.blocks() * LANES * self.turned() / 2
    }

    /// Bytes of an item's scales.
    pub fn scale_bytes(self) -> usize {
        self.blocks() * LANES * 2
    }

    /// Bytes of an item's codes.
    pub fn bytes(self) -> usize {
        2 * self.sign_bytes() + self.rest_bytes() + self.scale_bytes()
    }

    /// The standard deviation of a rotated unit vector's values.
    fn deviation(self) -> f32 {
        1.0 / (self.turned() as f32).sqrt()
    }
}

/// The codes of one item.
#[derive(Debug, Clone, Copy)]
pub struct ItemCodes<'a> {
    /// First layer.
    pub first: &'a [u8],
    /// Second layer.
    pub second: &'a [u8],
    /// Third layer.
    pub rest: &'a [u8],
    /// One 16-bit float for each lane: the third layer's step.
    pub scales: &'a [u8],
}
