//! One packed model: weights, tokenizers, prompts and dimensions, with a hash over all of it.
//!
//! A bundle is a folder, or the uncompressed tar archive of one:
//!
//! | file | what |
//! | --- | --- |
//! | `bundle.json` | the [manifest](BundleManifest): dimensions, prompts, hashes, the golden picture's tokens |
//! | `weights.gguf` | every tensor under its canonical name, memory-mapped when read |
//! | `tokenizer.json` | the language model's tokenizer |
//! | `text_tokenizer.json` | the retrieval heads' tokenizer, if the bundle has such heads |
//! | `golden.png` | a picture whose caption tokens are in the manifest |
//!
//! Opening a bundle compares the hashes of the manifest and of all small files. The weights are gigabytes: they are hashed
//! while the network is built from them, in pieces and by every core, so that a disk reads them once, and no network comes of
//! weights in which a byte was flipped. [`LoadedModel::self_test`] then checks that network and arithmetic together still say what they said when the
//! bundle was packed.

mod error;
mod files;
mod golden;
mod loaded;
mod manifest;
mod pieces;
mod weights_file;

use std::path::Path;

use candle_core::Device;

pub use error::BundleError;
pub(crate) use golden::greedy_tokens;
pub use loaded::LoadedModel;
pub use manifest::{BUNDLE_FORMAT, BundleManifest, GoldenAnswer};

use crate::{CaptionTokenizer, OwnKernels, TextTokenizer, TinyGptV, Weights};
use files::BundleFiles;
pub(crate) use files::FileBytes;
pub(crate) use manifest::seal as seal_manifest;
pub use pieces::Pieces;
pub(crate) use weights_file::{StoredTensor, WeightsFile};

/// Name of the manifest in a bundle.
pub const MANIFEST: &str = "bundle.json";
/// Name of the weights in a bundle.
pub const WEIGHTS: &str = "weights.gguf";
/// Name of the language model's tokenizer in a bundle.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the retrieval heads' tokenizer in a bundle.
pub const TEXT_TOKENIZER: &str = "text_tokenizer.json";
/// Name of the golden picture in a bundle.
pub const GOLDEN_PICTURE: &str = "golden.png";

/// A bundle whose every byte has been checked, but for the weights, which are when they are read ([`Bundle::load`]).
#[derive(Debug)]
pub struct Bundle {
    manifest: BundleManifest,
    files: BundleFiles,
}

impl Bundle {
    /// Opens a folder or a tar file and checks all hashes but that of the weights.
    ///
    /// # Errors
    /// Says what is not a bundle, which file is missing, or which one has changed.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let files = if path.is_dir() { BundleFiles::folder(path)? } else { BundleFiles::archive(path)? };
        Self::check(files)
    }

    /// A bundle that is part of the program: pairs of file name and content.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Result<Self, BundleError> {
        Self::check(BundleFiles::memory(files))
    }

    /// Reads the manifest alone and checks its own digest, but none of the files: enough to know the bundle's id.
    ///
    /// # Errors
    /// As [`Bundle::open`], for the manifest.
    pub fn read_manifest(bytes: &[u8], place: &str) -> Result<BundleManifest, BundleError> {
        manifest::parse(bytes, place)
    }

    fn check(files: BundleFiles) -> Result<Self, BundleError> {
        let manifest = manifest::parse(files.bytes(MANIFEST)?, files.place())?;
        let bundle = Self { manifest, files };
        bundle.files.get(WEIGHTS)?;
        for file in bundle.manifest.files.keys().filter(|file| *file != WEIGHTS) {
            bundle.check_hash(file)?;
        }
        Ok(bundle)
    }

    /// Compares the weights' hash, which opening does not.
    pub(crate) fn check_weights(&self) -> Result<(), BundleError> {
        self.check_hash(WEIGHTS)
    }

    fn check_hash(&self, file: &str) -> Result<(), BundleError> {
        let bytes = self.files.get(file)?;
        let is_whole = match &self.manifest.weight_pieces {
            Some(pieces) if file == WEIGHTS => pieces.are_of(bytes),
            _ => Some(&pieces::sha256_of_whole(bytes)) == self.manifest.files.get(file),
        };
        if is_whole {
            return Ok(());
        }
        Err(BundleError::Damaged { place: self.files.place().to_owned(), file: file.to_owned() })
    }

    /// The bundle's id: the digest of its manifest, which holds the hashes of everything else.
    pub fn id(&self) -> &str {
        &self.manifest.digest
    }

    /// Dimensions, prompts, hashes.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// Size of the weights as they are stored, in bytes.
    pub fn weights_size(&self) -> u64 {
        self.files.get(WEIGHTS).map_or(0, |weights| weights.as_slice().len() as u64)
    }

    /// Builds the network on `device` with the kernels of ours that pass their check there, and checks the weights' hash meanwhile.
    ///
    /// # Errors
    /// When the weights are damaged, a tensor is missing or misshaped, or a tokenizer cannot be read.
    pub fn load(&self, device: &Device) -> Result<LoadedModel, BundleError> {
        self.load_with(device, OwnKernels::checked(device))
    }

    /// As [`Bundle::load`], with these kernels of ours.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn load_with(&self, device: &Device, kernels: OwnKernels) -> Result<LoadedModel, BundleError> {
        std::thread::scope(|scope| {
            let checking = scope.spawn(|| self.check_weights());
            let loaded = self.build(device, kernels);
            // Said first: whatever else is wrong with damaged weights follows from it.
            checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            loaded
        })
    }

    fn build(&self, device: &Device, kernels: OwnKernels) -> Result<LoadedModel, BundleError> {
        let config = &self.manifest.config;
        let weights = Weights::from_file(self.weights_file()?, device).with_kernels(kernels);
        let model = TinyGptV::load(&weights, config).map_err(|source| self.unusable(WEIGHTS, source))?;
        for name in weights.unread() {
            tracing::warn!(tensor = name, "the bundle holds a tensor that the model does not know");
        }
        let tokenizer = CaptionTokenizer::from_bytes(self.files.bytes(TOKENIZER)?)
            .map_err(|source| self.unusable(TOKENIZER, source))?;
        let text_tokenizer = match &config.retrieval {
            None => None,
            Some(retrieval) => Some(
                TextTokenizer::from_bytes(self.files.bytes(TEXT_TOKENIZER)?, retrieval.max_text_tokens)
                    .map_err(|source| self.unusable(TEXT_TOKENIZER, source))?,
            ),
        };
        Ok(LoadedModel {
            model,
            tokenizer,
            text_tokenizer,
            prompts: self.manifest.prompts.clone(),
            golden_picture: self.files.bytes(GOLDEN_PICTURE)?.to_vec(),
            manifest: self.manifest.clone(),
            memory: weights.memory(),
            kernels,
        })
    }

    /// Its tensors, which nobody has checked ([`Bundle::check_weights`]).
    pub(crate) fn weights_file(&self) -> Result<WeightsFile, BundleError> {
        WeightsFile::open(self.files.get(WEIGHTS)?.clone()).map_err(|source| self.unusable(WEIGHTS, source))
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> Result<&[u8], BundleError> {
        self.files.bytes(name)
    }

    fn unusable(&self, file: &str, source: impl std::error::Error + Send + Sync + 'static) -> BundleError {
        BundleError::Unusable {
            place: self.files.place().to_owned(),
            file: file.to_owned(),
            source: Box::new(source),
        }
    }
}
