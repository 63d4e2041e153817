//! Published checkpoint files, read and resolved to named tensors.
//!
//! A TinyGPT-V checkpoint is spread over five files of several publishers and formats, each of which
//! the reference loads leniently: a wrong prefix goes unnoticed, a missing matrix stays random. Here
//! every tensor of the model is either found, with the right shape, or the checkpoint is refused; and
//! every tensor of every file is used, known not to be needed, or reported. [`Assembly`] is the result.
//!
//! Files are untrusted. Pickles are read as data and never run ([`PickleError`]); sizes are checked
//! against the file before anything is allocated; nothing but the requested tensor is in memory.

mod accounting;
mod assembly;
mod config_file;
mod error;
mod golden;
mod names;
mod open;
mod pickle;
mod plan;
mod pth;
mod published;
mod safetensors;
mod source;
mod stored_zip;

pub use accounting::{Accounting, FileAccount};
pub use assembly::{Assembly, CheckpointFiles};
pub use config_file::{CheckpointConfig, published_image_size, read_phi_config, read_retrieval_config};
pub use error::{CheckpointError, Problem, Problems};
pub use golden::{CheckpointFolder, GoldenStage, golden_dir};
pub use names::Role;
pub(crate) use names::{LoraHalf, Meaning, adapter as adapter_meaning};
pub use open::{open_directory, open_file};
pub use pickle::PickleError;
pub use plan::{Sources, StageExpectation};
pub use published::{PublishedFile, PublishedLocation, missing_files, published_files, require_files};
pub use source::{TensorHeader, TensorSource};

/// Size and weight of the low-rank changes that stages 2 to 4 train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraConfig {
    /// r
    pub rank: usize,
    /// the change counts `alpha / rank`
    pub alpha: f64,
}

impl Default for LoraConfig {
    /// As published.
    fn default() -> Self {
        Self { rank: 64, alpha: 16.0 }
    }
}

impl LoraConfig {
    /// What a stage file's own training configuration says, if it has one.
    pub(crate) fn of_stage(stage: &dyn TensorSource) -> Option<Self> {
        let rank = stage.setting(&["model", "lora_r"])?;
        let alpha = stage.setting(&["model", "lora_alpha"])?;
        (rank >= 1.0).then_some(Self { rank: rank as usize, alpha })
    }

    fn scaling(self) -> f64 {
        self.alpha / self.rank as f64
    }
}
