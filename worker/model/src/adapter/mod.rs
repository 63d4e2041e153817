//! LoRA adapters: small changes to the language model, and to what leads from the vision tower to it, that rows of one batch
//! choose for themselves.
//!
//! An adapter stays apart from the packed base: `y = x Wᵀ + b + s · (x Aᵀ) Bᵀ`, with norms and projections of its own
//! where it has some. Every product and norm is computed row by row as without adapters, so that a row has the same
//! bits whichever adapters its neighbours use.
//!
//! [`Adapter::open`] reads what peft writes (`adapter_config.json` and `adapter_model.safetensors`) and what the
//! reference writes (`TinyGPT-V_for_StageN.pth`), with fused or split attention. What does not fit the model, or would
//! change a part that adapters cannot change, is refused by name.

mod assemble;
mod config_file;
mod error;
mod low_rank;
mod parts;
mod save;
mod shares;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use sha2::{Digest, Sha256};

pub use config_file::{AdapterConfig, TARGETS};
pub use error::AdapterError;

pub(crate) use low_rank::LowRank;
pub use save::save;
pub(crate) use shares::Shares;

use crate::TinyGptV;
use crate::checkpoint::{TensorSource, open_file};
use crate::norm::{LayerNorm, RmsNorm};
use crate::projector::Projector;

/// The file of peft's settings in an adapter's folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The file of weights in an adapter's folder.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// Key in the weights' metadata under which `worker finetune` writes what the adapter was trained on.
pub(crate) const BASE_KEY: &str = "captionfleet.base";

/// A loaded adapter.
#[derive(Debug)]
pub struct Adapter {
    digest: String,
    pub(crate) layers: Vec<LayerAdapter>,
    pub(crate) final_norm: Option<LayerNorm>,
    /// One for each layer of the Q-Former, or none at all.
    qformer: Vec<QFormerLayerAdapter>,
    pub(crate) projector: Option<Projector>,
    bytes: u64,
}

/// What an adapter changes in one layer.
#[derive(Debug, Default)]
pub(crate) struct LayerAdapter {
    pub(crate) norm: Option<LayerNorm>,
    pub(crate) query_norm: Option<LayerNorm>,
    pub(crate) key_norm: Option<LayerNorm>,
    pub(crate) post_norm: Option<RmsNorm>,
    pub(crate) query_key_value: Option<LowRank>,
    pub(crate) dense: Option<LowRank>,
    pub(crate) fc1: Option<LowRank>,
    pub(crate) fc2: Option<LowRank>,
}

impl LayerAdapter {
    pub(crate) fn changes_mlp(&self) -> bool {
        self.fc1.is_some() || self.fc2.is_some()
    }
}

/// What an adapter changes in one layer of the Q-Former.
#[derive(Debug, Default)]
pub(crate) struct QFormerLayerAdapter {
    pub(crate) attention: AttentionAdapter,
    pub(crate) cross_attention: AttentionAdapter,
    pub(crate) intermediate: Option<LowRank>,
    pub(crate) output: Option<LowRank>,
}

/// What an adapter changes where the Q-Former attends.
#[derive(Debug, Default)]
pub(crate) struct AttentionAdapter {
    pub(crate) query: Option<LowRank>,
    pub(crate) key: Option<LowRank>,
    pub(crate) value: Option<LowRank>,
    pub(crate) output: Option<LowRank>,
}

impl Adapter {
    /// Reads a peft folder, or one file with the reference's names, for `model`, whose weights are `base`
    /// ([`crate::bundle::BundleManifest::base_id`]).
    ///
    /// # Errors
    /// [`AdapterError`], which names the file or tensor that is missing, misshaped, unknown or made for another base.
    pub fn open(path: &Path, model: &TinyGptV, base: &str) -> Result<Self, AdapterError> {
        let (source, config, digest) = opened(path)?;
        if let Some(trained_on) = source.note(BASE_KEY).filter(|id| id != base) {
            return Err(AdapterError::Base { wanted: trained_on, served: base.to_owned() });
        }
        assemble::assemble(source.as_ref(), &config, model, digest)
    }

    /// An adapter of random numbers that changes both attention matrices of every layer, for measurements; `name` tells it
    /// from others.
    ///
    /// # Errors
    /// When the device has no room for it.
    pub fn random(model: &TinyGptV, rank: usize, name: &str) -> Result<Self, AdapterError> {
        let (width, device) = (model.config().lm.hidden_size, model.device());
        let mut bytes = 0;
        let mut drawn = |outputs: usize| -> candle_core::Result<LowRank> {
            let a = Tensor::randn(0f32, 0.02, (rank, width), device)?;
            let b = Tensor::randn(0f32, 0.02, (outputs, rank), device)?;
            bytes += 4 * (a.elem_count() + b.elem_count()) as u64;
            LowRank::new(&a, &b)
        };
        let mut layers = Vec::new();
        for _ in 0..model.config().lm.num_layers {
            layers.push(LayerAdapter {
                query_key_value: Some(drawn(3 * width)?),
                dense: Some(drawn(width)?),
                ..LayerAdapter::default()
            });
        }
        let digest = digest_of([name.as_bytes()]);
        Ok(Self { digest, layers, final_norm: None, qformer: Vec::new(), projector: None, bytes })
    }

    /// SHA-256 of its files, one behind the other: its name wherever adapters are told apart.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it changes how pictures become image tokens.
    pub fn changes_image_tokens(&self) -> bool {
        self.projector.is_some() || !self.qformer.is_empty()
    }

    pub(crate) fn layer(&self, index: usize) -> Option<&LayerAdapter> {
        self.layers.get(index)
    }

    pub(crate) fn qformer(&self, index: usize) -> Option<&QFormerLayerAdapter> {
        self.qformer.get(index)
    }
}

/// The digest of an adapter's files: the one, or settings and weights of a folder in this order.
pub fn digest_of<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    files.into_iter().for_each(|bytes| hash.update(bytes));
    hex::encode(hash.finalize())
}

fn opened(path: &Path) -> Result<(Arc<dyn TensorSource>, AdapterConfig, String), AdapterError> {
    let files: Vec<PathBuf> = if path.is_dir() {
        vec![path.join(ADAPTER_CONFIG), path.join(ADAPTER_WEIGHTS)]
    } else {
        vec![path.to_owned()]
    };
    let mut contents = Vec::with_capacity(files.len());
    for file in &files {
        let bytes = std::fs::read(file)
            .map_err(|source| AdapterError::Read { file: file.display().to_string(), source })?;
        contents.push(bytes);
    }
    let digest = digest_of(contents.iter().map(Vec::as_slice));
    let weights = files.last().expect("an adapter has at least one file");
    let source = open_file(weights)?;
    let config = if path.is_dir() {
        AdapterConfig::parse(&contents[0], &files[0].display().to_string())?
    } else {
        AdapterConfig::of_stage(source.as_ref())
    };
    Ok((source, config, digest))
}
