//! A model of any size whose weights are drawn: everything about it is real but what it says.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::bundle_writer::{Recipe, write_bundle};
use super::source::WeightSource;
use super::weights::WeightTypes;
use super::{PackError, PackReport, WeightFormat};
use crate::checkpoint::Accounting;
use crate::{ModelConfig, PromptTemplates, TensorKind, TensorSpec, tensor_inventory};

/// What to draw, and how to store it.
#[derive(Debug, Clone)]
pub struct RandomRequest {
    /// Dimensions.
    pub config: ModelConfig,
    /// The stage whose prompts it gets (1 to 4).
    pub stage: u8,
    /// The language model's `tokenizer.json`; its ids must fit the vocabulary.
    pub tokenizer: Vec<u8>,
    /// The retrieval heads' `tokenizer.json`; needed if the model has such heads.
    pub text_tokenizer: Option<Vec<u8>>,
    /// Type of the matrices of language model, Q-Formers and projections.
    pub weights: WeightFormat,
    /// Type of the vision tower's matrices.
    pub vision_weights: WeightFormat,
    /// Another seed draws other weights.
    pub seed: u64,
    /// The folder to make, or the file if the name ends in `.tar`.
    pub out: PathBuf,
}

/// Draws a model and writes its bundle.
///
/// # Errors
/// As [`super::pack`].
pub fn pack_random(request: &RandomRequest) -> Result<PackReport, PackError> {
    let source = RandomWeights {
        inventory: tensor_inventory(&request.config)?,
        config: request.config.clone(),
        seed: request.seed,
    };
    let recipe = Recipe {
        name: format!("random-{}", request.seed),
        licence: "none needed: the weights are random".to_owned(),
        intended_use: "measurements and tests; what it says means nothing".to_owned(),
        stage: request.stage,
        prompts: PromptTemplates::of_stage(request.stage),
        tokenizer: request.tokenizer.clone(),
        text_tokenizer: request.text_tokenizer.clone(),
        types: WeightTypes { language: request.weights, vision: request.vision_weights },
        sources: [("random".to_owned(), format!("seed {}", request.seed))].into(),
        golden_picture: None,
        out: request.out.clone(),
    };
    write_bundle(&source, recipe, Accounting::default())
}

struct RandomWeights {
    inventory: Vec<TensorSpec>,
    config: ModelConfig,
    seed: u64,
}

impl WeightSource for RandomWeights {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensors(&self) -> Vec<(&str, &[usize], TensorKind)> {
        self.inventory.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice(), spec.kind)).collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, PackError> {
        let at = self.inventory.iter().position(|spec| spec.name == name);
        let (at, spec) = at.map(|at| (at, &self.inventory[at])).ok_or_else(|| {
            PackError::Checkpoint(crate::checkpoint::CheckpointError::NoSuchTensor(name.to_owned()))
        })?;
        let (mean, reach) = spread(spec);
        let start = mixed(self.seed ^ mixed(at as u64));
        let values: Vec<f32> = (0..spec.shape.iter().product::<usize>())
            .into_par_iter()
            .with_min_len(1 << 14)
            .map(|index| mean + reach * signed_unit(mixed(start.wrapping_add(index as u64))))
            .collect();
        Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu).map_err(|source| PackError::Convert {
            tensor: name.to_owned(),
            format: "f32".to_owned(),
            source,
        })
    }
}

/// Mean and half-width of a tensor's values, such that a row of the residual stream stays of the order of one through
/// any number of layers: sums over a matrix' row have the variance of their inputs.
fn spread(spec: &TensorSpec) -> (f32, f32) {
    let is_norm = spec.name.to_lowercase().contains("norm");
    match spec.kind {
        TensorKind::Matrix => {
            let inputs: usize = spec.shape[1..].iter().product();
            (0.0, (3.0 / inputs.max(1) as f32).sqrt())
        }
        TensorKind::Float if is_norm && spec.name.ends_with(".weight") => (1.0, 0.1),
        TensorKind::Float => (0.0, 0.05),
    }
}

/// A number in [-1, 1) from the upper bits.
pub(crate) fn signed_unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every index gets a number of its own, in any order.
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
