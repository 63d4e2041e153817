//! Making codes.

use super::rotation::Rotation;
use super::{LANES, MIDDLE, Shape, WEIGHTS};
use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Makes the codes of items of one shape.
#[derive(Debug, Clone)]
pub struct Encoder {
    shape: Shape,
    rotation: Rotation,
}

/// Places in the layers where one item's codes go.
#[derive(Debug)]
pub struct ItemCodesMut<'a> {
    /// First layer, zeroed.
    pub first: &'a mut [u8],
    /// Second layer, zeroed.
    pub second: &'a mut [u8],
    /// Third layer, zeroed.
    pub rest: &'a mut [u8],
    /// Scales.
    pub scales: &'a mut [u8],
}

impl Encoder {
    /// For items of `shape`.
    pub fn new(shape: Shape) -> Self {
        Self { shape, rotation: Rotation::new(shape.turned()) }
    }

    /// Turns one vector, which is filled up with zeros to the length of the codes.
    pub(super) fn turn(&self, vector: &[f32]) -> Vec<f32> {
        let mut turned = vec![0.0; self.shape.turned()];
        turned[..vector.len()].copy_from_slice(vector);
        self.rotation.turn(&mut turned);
        turned
    }

    /// Codes one item: `vectors × dim` values, one vector after the other.
    pub fn encode(&self, values: &[f16], into: &mut ItemCodesMut<'_>) {
        let mut vector = vec![0.0; self.shape.dim];
        let mut codes = OneVector::new(self.shape.turned());
        for lane in 0..self.shape.blocks() * LANES {
            let source = if lane < self.shape.vectors { lane } else { 0 };
            values[source * self.shape.dim..][..self.shape.dim].convert_to_f32_slice(&mut vector);
            codes.encode(&self.turn(&vector), self.shape.deviation());
            let (block, lane) = (lane / LANES, lane % LANES);
            let signs = block * self.shape.sign_block() + lane;
            for (place, (first, second)) in codes.first.iter().zip(&codes.second).enumerate() {
                into.first[signs + place * LANES] = *first;
                into.second[signs + place * LANES] = *second;
            }
            let rest = block * LANES * self.shape.turned() / 2 + lane;
            for (place, pair) in codes.rest.iter().enumerate() {
                into.rest[rest + place * LANES] = *pair;
            }
            into.scales[(block * LANES + lane) * 2..][..2].copy_from_slice(&codes.scale.to_le_bytes());
        }
    }
}

/// The codes of one vector, in the order of its values.
struct OneVector {
    first: Vec<u8>,
    second: Vec<u8>,
    rest: Vec<u8>,
    scale: f16,
    left: Vec<f32>,
}

impl OneVector {
    fn new(length: usize) -> Self {
        Self {
            first: vec![0; length / 8],
            second: vec![0; length / 8],
            rest: vec![0; length / 2],
            scale: f16::ZERO,
            left: vec![0.0; length],
        }
    }

    fn encode(&mut self, turned: &[f32], deviation: f32) {
        self.left.copy_from_slice(turned);
        for (signs, weight) in [&mut self.first, &mut self.second].into_iter().zip(WEIGHTS) {
            let step = weight * deviation;
            for (byte, eight) in signs.iter_mut().zip(self.left.chunks_exact_mut(8)) {
                *byte = 0;
                for (bit, value) in eight.iter_mut().enumerate() {
                    *byte |= u8::from(*value >= 0.0) << bit;
                    *value -= step.copysign(*value);
                }
            }
        }
        let largest = self.left.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        self.scale = f16::from_f32((largest / MIDDLE).max(f16::MIN_POSITIVE.to_f32()));
        let inverse = 1.0 / self.scale.to_f32();
        let number = |value: f32| (value * inverse + MIDDLE).round().clamp(0.0, 15.0) as u8;
        for (byte, pair) in self.rest.iter_mut().zip(self.left.chunks_exact(2)) {
            *byte = number(pair[0]) | number(pair[1]) << 4;
        }
    }
}
