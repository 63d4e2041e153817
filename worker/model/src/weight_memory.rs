//! How many bytes a loaded model's weights take, by its parts.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

/// Bytes of weights as they lie on the device, by part of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WeightMemory {
    parts: BTreeMap<&'static str, u64>,
}

impl WeightMemory {
    /// Part and bytes, in the order of the parts' names.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.parts.iter().map(|(part, bytes)| (*part, *bytes))
    }

    /// Bytes of all parts.
    pub fn total(&self) -> u64 {
        self.parts.values().sum()
    }

    /// Counts a tensor under the part that its canonical name says.
    pub(crate) fn count(&mut self, name: &str, bytes: u64) {
        *self.parts.entry(part_of(name)).or_insert(0) += bytes;
    }
}

fn part_of(name: &str) -> &'static str {
    match name.split('.').next().unwrap_or_default() {
        "visual_encoder" => "vision tower",
        "llama_model" => "language model",
        "llama_proj" | "llama_proj2" => "projections",
        "itc" => "retrieval heads",
        _ => "Q-Former",
    }
}

/// Something that holds weights.
pub(crate) trait HoldsWeights {
    /// Its bytes on the device.
    fn weight_bytes(&self) -> u64;
}

impl HoldsWeights for Tensor {
    fn weight_bytes(&self) -> u64 {
        (self.elem_count() * self.dtype().size_in_bytes()) as u64
    }
}
