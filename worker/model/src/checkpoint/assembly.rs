//! A complete checkpoint: every tensor of the model on request, in f32.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::config_file::{CheckpointConfig, published_image_size, read_phi_config, read_retrieval_config};
use super::names::{self, Role};
use super::open::{open_directory, open_file};
use super::plan::{self, LowRank, Origin, Plan, Recipe, Rows, Sources, StageExpectation, TensorPlan};
use super::source::{TensorSource, label_of};
use super::{Accounting, CheckpointError, LoraConfig};
use crate::{ModelConfig, RetrievalConfig, TensorKind, Weights};

/// Where the published files lie.
#[derive(Debug, Clone)]
pub struct CheckpointFiles {
    /// `eva_vit_g.pth`
    pub vision: PathBuf,
    /// `blip2_pretrained_flant5xxl.pth`
    pub qformer: PathBuf,
    /// the `phi-2` folder (weights and `config.json`), or a file of weights
    pub language: PathBuf,
    /// `TinyGPT-V_for_StageN.pth`
    pub stage: PathBuf,
    /// N: 1 to 4
    pub stage_number: u8,
    /// the `blip2-itm-vit-g` folder, or a file with LAVIS names
    pub retrieval: Option<PathBuf>,
    /// dimensions of a checkpoint of other than the published size
    pub config: Option<PathBuf>,
}

/// A checkpoint in which every tensor has been found.
pub struct Assembly {
    config: ModelConfig,
    sources: Sources,
    plan: Plan,
}

impl Assembly {
    /// Open the files, derive the dimensions and find every tensor; compares the two vision towers if
    /// there are retrieval heads. Reads no other numbers yet.
    pub fn open(files: &CheckpointFiles) -> Result<Self, CheckpointError> {
        let sources = Sources {
            vision: open_file(&files.vision)?,
            qformer: open_file(&files.qformer)?,
            language: open_path(&files.language)?,
            stage: open_file(&files.stage)?,
            retrieval: files.retrieval.as_deref().map(open_path).transpose()?,
        };
        let described = files.config.as_deref().map(CheckpointConfig::read).transpose()?;
        let mut config = model_config(files, described.as_ref())?;
        if let Some(path) = &files.retrieval {
            config.retrieval = Some(retrieval_config(path, &sources)?);
        }
        let lora = described
            .as_ref()
            .and_then(CheckpointConfig::lora)
            .or_else(|| LoraConfig::of_stage(sources.stage.as_ref()))
            .unwrap_or_default();
        let stage = StageExpectation { number: files.stage_number, lora };
        Self::new(sources, config, stage)
    }

    /// Find every tensor in opened files. A retrieval tower equal to the caption path's is left out.
    pub fn new(
        sources: Sources,
        mut config: ModelConfig,
        stage: StageExpectation,
    ) -> Result<Self, CheckpointError> {
        config.validate().map_err(|error| CheckpointError::Config {
            file: "configuration".into(),
            reason: error.to_string(),
        })?;
        let shared = match &config.retrieval {
            Some(_) => towers_are_equal(&sources, &config, stage)?,
            None => false,
        };
        if let Some(retrieval) = &mut config.retrieval {
            retrieval.shared_vision = shared;
        }
        Self::from_shapes(sources, config, stage)
    }

    /// As [`Assembly::new`], but believing `shared_vision` of the configuration: no numbers are read.
    pub fn from_shapes(
        sources: Sources,
        config: ModelConfig,
        stage: StageExpectation,
    ) -> Result<Self, CheckpointError> {
        let plan = plan::plan(&sources, &config, stage)?;
        Ok(Self { config, sources, plan })
    }

    /// Dimensions of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What became of every tensor of the files.
    pub fn accounting(&self) -> &Accounting {
        &self.plan.accounting
    }

    /// Name, shape and kind of every tensor, in the order in which the model loads them.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize], TensorKind)> {
        self.plan.order.iter().map(|name| {
            let plan = &self.plan.tensors[name];
            (name.as_str(), plan.shape.as_slice(), plan.kind)
        })
    }

    /// One tensor, put together and with its low-rank change merged: f32, row-major, on the CPU.
    pub fn tensor(&self, name: &str) -> Result<Tensor, CheckpointError> {
        let plan =
            self.plan.tensors.get(name).ok_or_else(|| CheckpointError::NoSuchTensor(name.to_owned()))?;
        let values = self.values(plan)?;
        let compute = |source| CheckpointError::Compute { name: name.to_owned(), source };
        let tensor = Tensor::from_vec(values, plan.shape.as_slice(), &Device::Cpu).map_err(compute)?;
        match &plan.low_rank {
            Some(change) => self.merged(tensor, change, &plan.shape)?.map_err(compute),
            None => Ok(tensor),
        }
    }

    /// All tensors in f32 on `device`.
    pub fn weights(&self, device: &Device) -> Result<Weights, CheckpointError> {
        let mut tensors = HashMap::with_capacity(self.plan.order.len());
        for name in &self.plan.order {
            let tensor = self
                .tensor(name)?
                .to_device(device)
                .map_err(|source| CheckpointError::Compute { name: name.clone(), source })?;
            tensors.insert(name.clone(), tensor);
        }
        Ok(Weights::from_tensors(tensors, device))
    }

    fn values(&self, plan: &TensorPlan) -> Result<Vec<f32>, CheckpointError> {
        let count = plan.shape.iter().product();
        match &plan.recipe {
            Recipe::Copy(origin) => self.read(origin),
            Recipe::Fill(value) => Ok(vec![*value; count]),
            Recipe::Third { of, index, zeros } => {
                let whole = self.read(of)?;
                if whole[zeros * count..][..count].iter().any(|&value| value != 0.0) {
                    return Err(CheckpointError::Tensor {
                        file: self.label(of).to_owned(),
                        key: of.key.clone(),
                        reason: "has a bias for attention keys, which this vision tower does not have".into(),
                    });
                }
                Ok(whole[index * count..][..count].to_vec())
            }
            Recipe::Interleave { parts } => self.interleaved(parts, &plan.shape),
        }
    }

    /// Rows q, k, v of head 0, then of head 1, …
    fn interleaved(&self, parts: &[Rows; 3], shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let width: usize = shape[1..].iter().product();
        let head = self.config.lm.head_dim() * width;
        let third = shape[0] / 3 * width;
        let mut whole = vec![0.0; 3 * third];
        for (index, rows) in parts.iter().enumerate() {
            let values = self.read(&rows.of)?;
            let values = &values[rows.first * width..][..third];
            for (number, from) in values.chunks_exact(head).enumerate() {
                whole[(3 * number + index) * head..][..head].copy_from_slice(from);
            }
        }
        Ok(whole)
    }

    fn merged(
        &self,
        base: Tensor,
        change: &LowRank,
        shape: &[usize],
    ) -> Result<candle_core::Result<Tensor>, CheckpointError> {
        let (a, b) = (self.read(&change.a)?, self.read(&change.b)?);
        let merge = || {
            let a = Tensor::from_vec(a, (change.rank, shape[1]), &Device::Cpu)?;
            let b = Tensor::from_vec(b, (shape[0], change.rank), &Device::Cpu)?;
            base + (b.matmul(&a)? * change.scaling)?
        };
        Ok(merge())
    }

    fn read(&self, origin: &Origin) -> Result<Vec<f32>, CheckpointError> {
        read(&self.sources, origin)
    }

    fn label(&self, origin: &Origin) -> &str {
        self.sources.get(origin.role).map_or("", |source| source.file_of(&origin.key))
    }
}

fn read(sources: &Sources, origin: &Origin) -> Result<Vec<f32>, CheckpointError> {
    match sources.get(origin.role) {
        Some(source) => source.read(&origin.key),
        None => Err(CheckpointError::NoSuchTensor(origin.key.clone())),
    }
}

/// Whether the retrieval heads were trained on the caption path's vision tower, number for number.
fn towers_are_equal(
    sources: &Sources,
    config: &ModelConfig,
    stage: StageExpectation,
) -> Result<bool, CheckpointError> {
    let Some(retrieval) = &sources.retrieval else { return Ok(true) };
    let has_tower = |key: &String| matches!(names::meaning(Role::Retrieval, key), names::Meaning::Weight(name) if name.starts_with("itc.visual_encoder."));
    if !retrieval.headers().keys().any(has_tower) {
        // LAVIS leaves the frozen tower out of its files
        return Ok(true);
    }
    let mut own = config.clone();
    if let Some(retrieval) = &mut own.retrieval {
        retrieval.shared_vision = false;
    }
    // planned with two towers: refuses a second one of another shape by name
    let both = Assembly::from_shapes(sources.clone(), own, stage)?;
    for name in both.plan.order.iter().filter(|name| name.starts_with("visual_encoder.")) {
        let values = |name: &str| both.plan.tensors.get(name).map(|plan| both.values(plan)).transpose();
        let (Some(caption), Some(retrieval)) = (values(name)?, values(&format!("itc.{name}"))?) else {
            return Ok(false);
        };
        if caption != retrieval {
            tracing::info!(tensor = %name, "the retrieval heads have a vision tower of their own");
            return Ok(false);
        }
    }
    Ok(true)
}

fn model_config(
    files: &CheckpointFiles,
    described: Option<&CheckpointConfig>,
) -> Result<ModelConfig, CheckpointError> {
    if let Some(described) = described {
        return Ok(described.model(files.stage_number));
    }
    let mut config = ModelConfig::tinygpt_v(published_image_size(files.stage_number));
    let phi = files.language.join("config.json");
    if phi.is_file() {
        config.lm = read_phi_config(&phi)?;
    }
    Ok(config)
}

fn retrieval_config(path: &Path, sources: &Sources) -> Result<RetrievalConfig, CheckpointError> {
    let beside = path.join("config.json");
    if beside.is_file() {
        return read_retrieval_config(&beside);
    }
    let mut config = RetrievalConfig::blip2_itm_vit_g();
    let keys = sources.retrieval.iter().flat_map(|source| source.headers().keys());
    if !keys.into_iter().any(|key| names::is_hugging_face(key)) {
        // LAVIS builds this norm with torch's default
        config.post_layernorm_eps = 1e-5;
    }
    Ok(config)
}

fn open_path(path: &Path) -> Result<std::sync::Arc<dyn TensorSource>, CheckpointError> {
    if path.is_dir() { open_directory(path) } else { open_file(path) }
}

/// The tokenizer file of a model folder.
pub(crate) fn tokenizer_in(folders: &[&Path]) -> Result<PathBuf, CheckpointError> {
    let found = folders.iter().map(|folder| folder.join("tokenizer.json")).find(|path| path.is_file());
    found.ok_or_else(|| {
        let places: Vec<String> =
            folders.iter().map(|folder| label_of(&folder.join("tokenizer.json"))).collect();
        CheckpointError::MissingFiles(format!("no tokenizer found: {} is needed", places.join(" or ")))
    })
}
