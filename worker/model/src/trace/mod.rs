//! The model's numbers at every stage, under the names of the reference's golden files.
//!
//! [`run`] reads a folder laid out like the goldens (`config.json`, `checkpoint/`, `tokenizer/`,
//! `images/`, `golden_meta.json`, `golden_itc_meta.json`), builds the model through the same loader
//! as a bundle, runs it through the same steps as the engine and writes what it saw to one
//! safetensors file. It never reads the expected tensors, so comparing the two files is a proof.
mod caption;
mod compare;
mod pictures;
mod retrieval;
mod settings;
mod tensors;

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::{
    CaptionTokenizer, ModelError, OwnKernels, PromptError, TextTokenizer, TinyGptV, TokenizerError,
    checkpoint::{self, CheckpointError, CheckpointFolder, GoldenStage},
    generate::GenerateError,
    pack::{PackError, WeightTypes, weights_as_packed},
    preprocess::DecodeError,
};
pub use compare::{Comparison, Tolerance, compare};
use settings::{CaptionSettings, RetrievalSettings, Settings};
use tensors::TraceTensors;

/// Which run of the goldens to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stage 1, 224 px, no low-rank changes.
    S1,
    /// Stage 3, 224 px.
    S3,
    /// Stage 4, 448 px.
    S4,
    /// The retrieval heads.
    Itc,
}

impl Stage {
    /// The name on command lines and, for captions, in front of tensor names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S1 => "s1",
            Self::S3 => "s3",
            Self::S4 => "s4",
            Self::Itc => "itc",
        }
    }

    fn golden(self) -> GoldenStage {
        match self {
            Self::S1 => GoldenStage::Caption(1),
            Self::S3 => GoldenStage::Caption(3),
            Self::S4 => GoldenStage::Caption(4),
            Self::Itc => GoldenStage::Retrieval,
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::S1, Self::S3, Self::S4, Self::Itc]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a stage; one of s1, s3, s4, itc is"))
    }
}

/// What a trace wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceReport {
    /// Tensors and id sequences written.
    pub tensors: usize,
    /// Pictures that were run.
    pub pictures: usize,
    /// Checkpoint tensors that are not known, as `file: name`.
    pub unknown: Vec<String>,
}

/// A trace could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A settings file is not what it should be.
    #[error("{} is not a settings file of this kind", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The settings ask for something the folder does not have.
    #[error("{0}")]
    Inconsistent(String),
    /// A picture cannot be decoded.
    #[error("picture {name} cannot be decoded")]
    Picture {
        /// Its file name.
        name: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The checkpoint.
    #[error("the checkpoint cannot be loaded")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's tensors in other types.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A prompt.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Generation.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A tensor cannot be prepared or written.
    #[error("a traced tensor cannot be written")]
    Tensor(#[from] candle_core::Error),
}

/// Traces one stage of a golden folder on `device`, with matrices of these types, and writes its tensors to `out`.
pub fn run(
    golden_dir: &Path,
    stage: Stage,
    types: WeightTypes,
    device: &Device,
    out: &Path,
) -> Result<TraceReport, TraceError> {
    let assembly = checkpoint::golden_dir(golden_dir, stage.golden())?;
    let weights = match types {
        WeightTypes::F32 => assembly.weights(device)?,
        types => weights_as_packed(&assembly, types, device)?,
    };
    let model = TinyGptV::load(&weights.with_kernels(OwnKernels::checked(device)), assembly.config())?;
    let folder = CheckpointFolder::open(golden_dir)?;
    let settings = Settings::read(golden_dir)?;
    let pictures = pictures::decode_all(golden_dir, &settings.images(golden_dir)?)?;
    let mut tensors = TraceTensors::default();
    if stage == Stage::Itc {
        let settings = RetrievalSettings::read(golden_dir)?;
        let tokenizer = text_tokenizer(&folder, &model)?;
        let pixels = pictures::retrieval_pixels(&pictures, &model)?;
        retrieval::trace(&model, &tokenizer, &settings, &pixels, &mut tensors)?;
    } else {
        let run = stage.as_str();
        let tokenizer = CaptionTokenizer::from_bytes(&read(&folder.tokenizer()?)?)?;
        let settings = CaptionSettings::choose(&settings, run, golden_dir, &tokenizer)?;
        let pixels = pictures::caption_pixels(&pictures, &model, run, &mut tensors)?;
        caption::trace(&model, &tokenizer, &settings, &pixels, &mut tensors.below(run))?;
    }
    let unknown = assembly.accounting().unknown().map(|(file, name)| format!("{file}: {name}")).collect();
    Ok(TraceReport { tensors: tensors.write(out)?, pictures: pictures.len(), unknown })
}

/// The reference does not cut texts; only the position table bounds them.
fn text_tokenizer(folder: &CheckpointFolder, model: &TinyGptV) -> Result<TextTokenizer, TraceError> {
    let retrieval = model.retrieval().ok_or(ModelError::NoRetrieval)?;
    let json = read(&folder.text_tokenizer()?)?;
    Ok(TextTokenizer::from_bytes(&json, retrieval.config().max_positions)?)
}

fn read(path: &Path) -> Result<Vec<u8>, TraceError> {
    std::fs::read(path).map_err(|source| TraceError::File { path: path.to_owned(), source })
}
