//! A bundle's tensors once more, in other types.

use std::path::PathBuf;

use candle_core::{Device, Tensor};

use super::bundle_writer::{Recipe, write_bundle};
use super::source::WeightSource;
use super::weights::WeightTypes;
use super::{PackError, PackReport};
use crate::bundle::{self, Bundle, WeightsFile};
use crate::checkpoint::{Accounting, CheckpointError};
use crate::weights::widened;
use crate::{ModelConfig, TensorKind, TensorSpec, tensor_inventory};

/// Packs a bundle again with matrices in other types; what was rounded stays rounded. Everything else is as it was, but for what the
/// new bundle says about the golden picture.
///
/// # Errors
/// As [`super::pack`], and damaged weights.
pub fn repack(bundle: &Bundle, types: WeightTypes, out: PathBuf) -> Result<PackReport, PackError> {
    if out.exists() {
        return Err(PackError::Exists(out));
    }
    bundle.check_weights()?;
    let manifest = bundle.manifest();
    let source = Repacked {
        config: &manifest.config,
        inventory: tensor_inventory(&manifest.config)?,
        file: bundle.weights_file()?,
    };
    let has_heads = manifest.config.retrieval.is_some();
    let recipe = Recipe {
        name: manifest.name.clone(),
        licence: manifest.licence.clone(),
        intended_use: manifest.intended_use.clone(),
        stage: manifest.stage,
        prompts: manifest.prompts.clone(),
        tokenizer: bundle.file(bundle::TOKENIZER)?.to_vec(),
        text_tokenizer: has_heads
            .then(|| bundle.file(bundle::TEXT_TOKENIZER))
            .transpose()?
            .map(<[u8]>::to_vec),
        types,
        sources: manifest.sources.clone(),
        golden_picture: Some(bundle.file(bundle::GOLDEN_PICTURE)?.to_vec()),
        out,
    };
    write_bundle(&source, recipe, Accounting::default())
}

struct Repacked<'a> {
    config: &'a ModelConfig,
    inventory: Vec<TensorSpec>,
    file: WeightsFile,
}

impl WeightSource for Repacked<'_> {
    fn config(&self) -> &ModelConfig {
        self.config
    }

    fn tensors(&self) -> Vec<(&str, &[usize], TensorKind)> {
        self.inventory.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice(), spec.kind)).collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, PackError> {
        let stored = self.file.tensor(name).ok_or_else(|| CheckpointError::NoSuchTensor(name.to_owned()))?;
        widened(&stored, &Device::Cpu).map_err(|source| PackError::Convert {
            tensor: name.to_owned(),
            format: "f32".to_owned(),
            source,
        })
    }
}
