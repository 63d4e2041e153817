//! TinyGPT-V as published: fetched from where its makers put it, packed once, kept.

use captionfleet_proto::chain;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use captionfleet_model::checkpoint::{
    CheckpointFolder, PublishedFile, PublishedLocation, missing_files, require_files,
};
use captionfleet_model::pack::{PackRequest, WeightFormat, pack};
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Repo, RepoType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{PUBLISHED, cache};

/// The stage that serves: 224 px, so that one vision pass gives caption and embedding.
const STAGE: u8 = 3;
/// Type of the vision tower's matrices: in 8 bits a CPU multiplies three times as fast as in f16, at a cosine above 0.999 to the
/// features in f32; a GPU would widen them in every product.
const VISION_WEIGHTS: WeightFormat =
    if cfg!(feature = "cuda") { WeightFormat::F16 } else { WeightFormat::Q8_0 };
/// SHA-256 and commit of every fetched file, recorded on arrival.
const RECORD: &str = "fetched.json";

/// The packed model's folder; fetches and packs what is not there yet.
pub(super) async fn fetch_and_pack() -> anyhow::Result<PathBuf> {
    let root = cache::folder()?.join(PUBLISHED);
    let bundle = root.join("bundle");
    if bundle.exists() {
        return Ok(bundle);
    }
    let checkpoint = root.join("checkpoint");
    let folder = checkpoint.clone();
    let fetched = tokio::task::spawn_blocking(move || fetch_missing(&folder)).await?;
    if let Err(error) = fetched {
        return Err(match require_files(&checkpoint, STAGE) {
            // The list is long: the reason stands before it, where it is seen.
            Err(missing) => anyhow::anyhow!(
                "{PUBLISHED} cannot be fetched ({}); without internet access, {missing}",
                chain(error.as_ref())
            ),
            Ok(()) => error.context(format!("{PUBLISHED} cannot be fetched")),
        });
    }
    require_files(&checkpoint, STAGE)?;
    let out = bundle.clone();
    let request = request(&checkpoint, out)?;
    tokio::task::spawn_blocking(move || pack(&request)).await??;
    Ok(bundle)
}

fn request(checkpoint: &Path, out: PathBuf) -> anyhow::Result<PackRequest> {
    let folder = CheckpointFolder::open(checkpoint)?;
    Ok(PackRequest {
        files: folder.files(STAGE)?,
        tokenizer: folder.tokenizer()?,
        text_tokenizer: Some(folder.text_tokenizer()?),
        weights: WeightFormat::Q8_0,
        vision_weights: VISION_WEIGHTS,
        prompts: None,
        name: PUBLISHED.to_owned(),
        licence: "see the publishers: TinyGPT-V and LAVIS BSD-3-Clause, Phi-2 MIT, BLIP-2 ITM MIT".to_owned(),
        intended_use: "descriptions and search of pictures for review by people; not for judging persons"
            .to_owned(),
        golden_picture: None,
        out,
    })
}

/// What is known of a fetched file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fetched {
    sha256: String,
    /// The commit that was asked for, or that `main` stood for.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

fn fetch_missing(checkpoint: &Path) -> anyhow::Result<()> {
    let missing = missing_files(checkpoint, STAGE);
    if missing.is_empty() {
        return Ok(());
    }
    let hub = ApiBuilder::from_env().with_progress(false).build();
    let hub = hub.context("the Hugging Face client cannot be made")?;
    let mut fetched = recorded(checkpoint);
    for file in missing {
        tracing::info!(file = file.local, "fetching a published file");
        let place = checkpoint.join(file.local);
        let commit = fetch(&hub, &file, &place).with_context(|| format!("fetch {}", file.local))?;
        fetched.insert(file.local.to_owned(), Fetched { sha256: sha256(&place)?, commit });
        cache::write_whole(&checkpoint.join(RECORD), &serde_json::to_vec_pretty(&fetched)?)?;
    }
    Ok(())
}

/// Puts one file in its place; the commit it came from, where there is such a thing.
fn fetch(hub: &Api, file: &PublishedFile, place: &Path) -> anyhow::Result<Option<String>> {
    let parent = place.parent().context("a published file lies in a folder")?;
    std::fs::create_dir_all(parent)?;
    let commit = match file.location {
        PublishedLocation::Hub { repository, revision, file: name } => {
            let repository = Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned());
            let repository = hub.repo(repository);
            let commit = hub.metadata(&repository.url(name))?.commit_hash().to_owned();
            // The hub's cache keeps its own copy; a link costs nothing where the file system allows one.
            let source = std::fs::canonicalize(repository.get(name)?)?;
            if std::fs::hard_link(&source, place).is_err() {
                std::fs::copy(&source, place)?;
            }
            Some(commit)
        }
        PublishedLocation::Url(url) => {
            download(url, place)?;
            None
        }
    };
    let found = place.metadata()?.len();
    if let Some(expected) = file.bytes.filter(|expected| *expected != found) {
        tracing::warn!(file = file.local, expected, found, "a published file has another size than known");
    }
    Ok(commit)
}

fn download(url: &str, place: &Path) -> anyhow::Result<()> {
    let mut body = ureq::get(url).call()?.into_body().into_reader();
    let unfinished = place.with_extension("part");
    let mut out = std::fs::File::create(&unfinished)?;
    std::io::copy(&mut body, &mut out)?;
    out.sync_all()?;
    Ok(std::fs::rename(&unfinished, place)?)
}

fn recorded(checkpoint: &Path) -> BTreeMap<String, Fetched> {
    std::fs::read(checkpoint.join(RECORD))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}
