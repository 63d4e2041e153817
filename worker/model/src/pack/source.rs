//! Where the numbers of a bundle come from.

use candle_core::Tensor;

use super::PackError;
use crate::checkpoint::Assembly;
use crate::{ModelConfig, TensorKind};

/// A whole model's tensors, one at a time.
pub(super) trait WeightSource {
    /// Dimensions of the model.
    fn config(&self) -> &ModelConfig;

    /// Name, shape and kind of every tensor, in the order in which the model loads them.
    fn tensors(&self) -> Vec<(&str, &[usize], TensorKind)>;

    /// One tensor in f32 on the CPU.
    fn tensor(&self, name: &str) -> Result<Tensor, PackError>;
}

impl WeightSource for Assembly {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn tensors(&self) -> Vec<(&str, &[usize], TensorKind)> {
        self.tensors().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, PackError> {
        Ok(self.tensor(name)?)
    }
}
