//! `bundle.json`: what is in a bundle, and its hash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BundleError, Pieces};
use crate::{ModelConfig, PromptTemplates};

/// The format this program writes and reads.
pub const BUNDLE_FORMAT: &str = "captionfleet-bundle/1";

/// Digits of a SHA-256 in hexadecimal.
const DIGEST_DIGITS: usize = 64;

/// The manifest of a bundle. `digest` stays the last field: it covers all that stands before it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleManifest {
    /// [`BUNDLE_FORMAT`].
    pub format: String,
    /// What people call it.
    pub name: String,
    /// Licence of the weights.
    pub licence: String,
    /// What it is for, and what not.
    pub intended_use: String,
    /// TinyGPT-V stage of the language side, 1 to 4.
    pub stage: u8,
    /// Types of the matrices, by part.
    pub weights: BTreeMap<String, String>,
    /// All dimensions.
    pub config: ModelConfig,
    /// Prompts that suit this stage.
    pub prompts: PromptTemplates,
    /// Name of the space its embeddings lie in; bundles of the same retrieval weights share it, whatever their types.
    pub embedding_space: Option<String>,
    /// Published files it was made from, with their SHA-256.
    pub sources: BTreeMap<String, String>,
    /// What the model says about the golden picture.
    pub golden: GoldenAnswer,
    /// SHA-256 of every other file.
    pub files: BTreeMap<String, String>,
    /// The same of the weights in pieces, which is what a worker checks; bundles of versions before 0.2 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_pieces: Option<Pieces>,
    /// SHA-256 of this file with the digest's own digits as zeros: the bundle's id.
    pub digest: String,
}

impl BundleManifest {
    /// Names the weights that adapters are trained on: the same for all types of their matrices. A bundle that was
    /// not made from published files names itself.
    pub fn base_id(&self) -> String {
        let mut hash = Sha256::new();
        let captioning: Vec<_> = self.sources.iter().filter(|(part, _)| *part != "retrieval").collect();
        if captioning.is_empty() {
            return self.digest.clone();
        }
        for (part, source) in captioning {
            hash.update(format!("{part} {source}\n"));
        }
        hex::encode(hash.finalize())
    }
}

/// The golden picture's prompt and answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GoldenAnswer {
    /// The whole prompt.
    pub prompt: String,
    /// Greedy tokens.
    pub tokens: Vec<u32>,
}

/// The manifest's file content; fills in the digest.
pub(crate) fn seal(manifest: &mut BundleManifest) -> serde_json::Result<Vec<u8>> {
    manifest.digest = "0".repeat(DIGEST_DIGITS);
    let mut bytes = serde_json::to_vec_pretty(manifest)?;
    bytes.push(b'\n');
    manifest.digest = sha256_hex(&bytes);
    let range = digest_range(&bytes).expect("the digest was written a moment ago");
    bytes[range].copy_from_slice(manifest.digest.as_bytes());
    Ok(bytes)
}

/// Reads a manifest and checks its digest.
pub(super) fn parse(bytes: &[u8], place: &str) -> Result<BundleManifest, BundleError> {
    let not_a_bundle = |reason: String| BundleError::NotABundle { place: place.to_owned(), reason };
    let probe: Probe = serde_json::from_slice(bytes)
        .map_err(|error| not_a_bundle(format!("its {} is not a manifest: {error}", super::MANIFEST)))?;
    if probe.format != BUNDLE_FORMAT {
        return Err(BundleError::Format { place: place.to_owned(), format: probe.format });
    }
    let damaged = || BundleError::Damaged { place: place.to_owned(), file: super::MANIFEST.to_owned() };
    let mut zeroed = bytes.to_vec();
    zeroed[digest_range(bytes).ok_or_else(damaged)?].fill(b'0');
    if sha256_hex(&zeroed) != probe.digest {
        return Err(damaged());
    }
    let manifest: BundleManifest = serde_json::from_slice(bytes)
        .map_err(|error| not_a_bundle(format!("its {} is incomplete: {error}", super::MANIFEST)))?;
    for required in [super::WEIGHTS, super::TOKENIZER, super::GOLDEN_PICTURE] {
        if !manifest.files.contains_key(required) {
            return Err(not_a_bundle(format!("its {} lists no {required}", super::MANIFEST)));
        }
    }
    Ok(manifest)
}

/// What is looked at before the digest is known to be right.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    format: String,
    #[serde(default)]
    digest: String,
}

/// Where the digest's digits stand: the last `"digest": "…"`.
fn digest_range(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    const KEY: &[u8] = b"\"digest\": \"";
    let start = bytes.windows(KEY.len()).rposition(|window| window == KEY)? + KEY.len();
    let end = start + DIGEST_DIGITS;
    (bytes.get(end) == Some(&b'"')).then_some(start..end)
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
