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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::RetrievalConfig;

    fn parameters(inventory: &[TensorSpec], prefix: &str) -> usize {
        let below = inventory.iter().filter(|spec| spec.name.starts_with(prefix));
        below.map(|spec| spec.shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn the_published_model_has_its_published_size() {
        let mut config = ModelConfig::tinygpt_v(448);
        config.retrieval = Some(RetrievalConfig::blip2_itm_vit_g());
        let inventory = tensor_inventory(&config).unwrap();
        assert_eq!(parameters(&inventory, "visual_encoder."), 985_894_528);
        assert_eq!(parameters(&inventory, "Qformer."), 105_137_664);
        assert_eq!(parameters(&inventory, "llama_proj"), 3_149_824 + 10_488_320);
        assert_eq!(parameters(&inventory, "llama_model."), 2_779_683_840 + 92_160);
        let mut names: Vec<_> = inventory.iter().map(|spec| &spec.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), inventory.len());
        for spec in inventory {
            let quantisable = spec.kind == TensorKind::Matrix;
            assert_eq!(
                quantisable,
                spec.name.ends_with(".weight") && spec.shape.len() >= 2 && !spec.name.contains("position"),
                "{}",
                spec.name
            );
        }
    }
}
