//! Tensors of a checkpoint, or drawn ones, quantised and written as one bundle.

mod bundle_writer;
mod checkpoint;
mod format;
mod gguf;
mod random;
mod repack;
mod source;
mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub use checkpoint::pack;
pub use format::WeightFormat;
pub use random::{RandomRequest, pack_random};
pub(crate) use random::{mixed, signed_unit};
pub use repack::repack;
pub use weights::WeightTypes;
pub(crate) use weights::weights_as_packed;

use crate::bundle::BundleError;
use crate::checkpoint::{Accounting, CheckpointError, CheckpointFiles};
use crate::{ModelError, PromptError, PromptTemplates};

/// What to pack, and how.
#[derive(Debug, Clone)]
pub struct PackRequest {
    /// The published files.
    pub files: CheckpointFiles,
    /// The language model's `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The retrieval heads' `tokenizer.json`; needed if `files.retrieval` is given.
    pub text_tokenizer: Option<PathBuf>,
    /// Type of the matrices of language model, Q-Formers and projections.
    pub weights: WeightFormat,
    /// Type of the vision tower's matrices.
    pub vision_weights: WeightFormat,
    /// Prompts; those of the stage if not given.
    pub prompts: Option<PromptTemplates>,
    /// What people call it.
    pub name: String,
    /// Licence of the weights.
    pub licence: String,
    /// What it is for.
    pub intended_use: String,
    /// A picture file for the self-test; a drawn one if not given.
    pub golden_picture: Option<Vec<u8>>,
    /// The folder to make, or the file if the name ends in `.tar`.
    pub out: PathBuf,
}

/// What was packed.
#[derive(Debug, Clone, Serialize)]
pub struct PackReport {
    /// Id of the bundle.
    pub bundle: String,
    /// Where it is.
    pub out: PathBuf,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of the weights file.
    pub weight_bytes: u64,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// Matrices whose rows do not fit the type asked for, with the type they got.
    pub fallbacks: BTreeMap<String, String>,
    /// What became of every tensor of the published files.
    pub accounting: Accounting,
}

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The published files are not a whole model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt cannot be used.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The bundle just written does not work.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tensor could not be converted.
    #[error("tensor `{tensor}` could not be stored as {format}")]
    Convert {
        /// Canonical name.
        tensor: String,
        /// The type asked for.
        format: String,
        /// What the backend said.
        #[source]
        source: candle_core::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something is in the way.
    #[error("{} exists already: remove it or name another place", .0.display())]
    Exists(PathBuf),
    /// Retrieval heads without their tokenizer.
    #[error("the retrieval heads need their tokenizer.json beside the weights")]
    NoTextTokenizer,
    /// The golden picture could not be captioned.
    #[error("the golden picture cannot be captioned with the packed model")]
    Golden(#[source] Box<dyn std::error::Error + Send + Sync>),
}
