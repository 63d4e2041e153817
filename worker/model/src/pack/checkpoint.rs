//! Published checkpoints into one bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::bundle_writer::{Recipe, hash_files, io, write_bundle};
use super::weights::WeightTypes;
use super::{PackError, PackReport, PackRequest};
use crate::PromptTemplates;
use crate::checkpoint::{Assembly, CheckpointFiles};

/// Packs a checkpoint into a bundle, which is complete or not there at all.
///
/// # Errors
/// Names the tensor, file or setting that stands in the way; nothing is left behind then.
pub fn pack(request: &PackRequest) -> Result<PackReport, PackError> {
    if request.out.exists() {
        return Err(PackError::Exists(request.out.clone()));
    }
    let assembly = Assembly::open(&request.files)?;
    let read = |path: &Path| std::fs::read(path).map_err(io("read", path));
    let has_heads = assembly.config().retrieval.is_some();
    let recipe = Recipe {
        name: request.name.clone(),
        licence: request.licence.clone(),
        intended_use: request.intended_use.clone(),
        stage: request.files.stage_number,
        prompts: request
            .prompts
            .clone()
            .unwrap_or_else(|| PromptTemplates::of_stage(request.files.stage_number)),
        tokenizer: read(&request.tokenizer)?,
        text_tokenizer: request.text_tokenizer.as_deref().filter(|_| has_heads).map(read).transpose()?,
        types: WeightTypes { language: request.weights, vision: request.vision_weights },
        sources: source_hashes(&request.files)?,
        golden_picture: request.golden_picture.clone(),
        out: request.out.clone(),
    };
    write_bundle(&assembly, recipe, assembly.accounting().clone())
}

/// SHA-256 of the published weights, by their part.
fn source_hashes(files: &CheckpointFiles) -> Result<BTreeMap<String, String>, PackError> {
    let parts = [
        ("vision", Some(&files.vision)),
        ("qformer", Some(&files.qformer)),
        ("language", Some(&files.language)),
        ("stage", Some(&files.stage)),
        ("retrieval", files.retrieval.as_ref()),
    ];
    let mut hashes = BTreeMap::new();
    for (part, path) in parts {
        let Some(path) = path else { continue };
        hashes.insert(part.to_owned(), hash_path(path)?);
    }
    Ok(hashes)
}

/// The hash of a file, or of a folder's weight files in the order of their names.
fn hash_path(path: &Path) -> Result<String, PackError> {
    if !path.is_dir() {
        return hash_files([path]);
    }
    let entries = std::fs::read_dir(path).map_err(io("read", path))?;
    let mut weights: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_weights(path)).collect();
    weights.sort();
    hash_files(weights.iter().map(PathBuf::as_path))
}

fn is_weights(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "bin" || extension == "safetensors" || extension == "pth")
}
