//! Adapters: small changes to the model that a job asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::uri::ItemUri;

/// peft's settings, in an adapter's folder.
const SETTINGS: &str = "adapter_config.json";
/// peft's weights, in an adapter's folder.
const WEIGHTS: &str = "adapter_model.safetensors";
/// Ends of the names of adapters that are one file.
const FILES: [&str; 3] = [".pth", ".bin", ".safetensors"];

/// A LoRA adapter that the worker's model uses for a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct JobAdapter {
    /// Where it is: a folder as peft writes it, or one `.pth`, `.bin` or `.safetensors` file.
    pub uri: ItemUri,
    /// Its name: SHA-256 of the file, or of a folder's `adapter_config.json` followed by its
    /// `adapter_model.safetensors`; 64 lowercase hexadecimal digits. Bytes of another digest are refused.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

impl JobAdapter {
    /// The adapter at `uri` whose files, in the order of [`JobAdapter::files`], have these contents.
    pub fn of<'a>(uri: ItemUri, contents: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        contents.into_iter().for_each(|bytes| hash.update(bytes));
        Self { uri, sha256: hex::encode(hash.finalize()) }
    }

    /// The files of the adapter at `uri`, by name: none if it is a file itself.
    pub fn files(uri: &ItemUri) -> &'static [&'static str] {
        if FILES.iter().any(|end| uri.as_str().ends_with(end)) { &[] } else { &[SETTINGS, WEIGHTS] }
    }

    /// Where the adapter's files are, in the order that makes its digest.
    pub fn file_uris(uri: &ItemUri) -> Vec<ItemUri> {
        let folder = uri.as_str().trim_end_matches('/');
        let inside = |name: &&str| {
            ItemUri::parse(&format!("{folder}/{name}")).expect("a plain name behind a valid URI is one")
        };
        match Self::files(uri) {
            [] => vec![uri.clone()],
            names => names.iter().map(inside).collect(),
        }
    }

    /// The prompt hash of rows that are made with an adapter: the first 16 hexadecimal digits of SHA-256 over the plain
    /// hash, a blank and the adapter's digest.
    pub fn prompt_hash(adapter: Option<&Self>, plain: String) -> String {
        match adapter {
            None => plain,
            Some(adapter) => {
                hex::encode(Sha256::digest(format!("{plain} {}", adapter.sha256)))[..16].to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_has_two_files_and_a_file_is_one() {
        let uris = |uri: &str| -> Vec<String> {
            let files = JobAdapter::file_uris(&ItemUri::parse(uri).unwrap());
            files.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            uris("s3://b/a%20b"),
            ["s3://b/a%20b/adapter_config.json", "s3://b/a%20b/adapter_model.safetensors"]
        );
        assert_eq!(uris("s3://b/stage.pth"), ["s3://b/stage.pth"]);
    }

    #[test]
    fn an_adapter_makes_another_prompt_hash() {
        let uri = ItemUri::parse("s3://b/x.pth").unwrap();
        let one = JobAdapter::of(uri.clone(), [&b"one"[..]]);
        let other = JobAdapter::of(uri, [&b"other"[..]]);
        let hash = |adapter| JobAdapter::prompt_hash(adapter, "0123456789abcdef".to_owned());
        assert_eq!(hash(None), "0123456789abcdef");
        assert!(hash(Some(&one)) != hash(Some(&other)) && hash(Some(&one)) != hash(None));
    }
}
