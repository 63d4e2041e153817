//! The list of tensors a model needs, derived by loading it: loader and packer cannot disagree.
use crate::{ModelConfig, ModelError, TinyGptV, Weights};

/// How a tensor may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A matrix: any float type, or block-quantised where its last dimension allows.
    Matrix,
    /// A norm, bias, position or query tensor: kept in f32.
    Float,
}

/// One tensor of the canonical list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full canonical name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How it may be stored.
    pub kind: TensorKind,
}

/// Every tensor a model of this configuration reads, in loading order. Takes no memory worth
/// mentioning, whatever the size of the model.
pub fn tensor_inventory(config: &ModelConfig) -> Result<Vec<TensorSpec>, ModelError> {
    let weights = Weights::recording();
    TinyGptV::load(&weights, config)?;
    Ok(weights.recorded())
}
