//! TinyGPT-V as published: fetched from where its makers put it, packed once, kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use captionfleet_model::checkpoint::{
    CheckpointFolder, PublishedFile, PublishedLocation, missing_files, require_files,
};
use captionfleet_model::pack::{PackRequest, WeightFormat, pack};
use futures::TryStreamExt;
use hf_hub::{HFClient, HFError};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{PUBLISHED, cache};

/// The stage that serves: 224 px, so that one vision pass gives caption and embedding.
const STAGE: u8 = 3;
/// SHA-256 of every fetched file, recorded on arrival.
const RECORD: &str = "sha256.json";

/// The packed model's folder; fetches and packs what is not there yet.
pub(super) async fn fetch_and_pack() -> anyhow::Result<PathBuf> {
    let root = cache::folder()?.join(PUBLISHED);
    let bundle = root.join("bundle");
    if bundle.exists() {
        return Ok(bundle);
    }
    let checkpoint = root.join("checkpoint");
    if let Err(error) = fetch_missing(&checkpoint).await {
        let wanted =
            require_files(&checkpoint, STAGE).err().map(|missing| missing.to_string()).unwrap_or_default();
        return Err(
            error.context(format!("{PUBLISHED} cannot be fetched; without internet access, {wanted}"))
        );
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
        vision_weights: WeightFormat::F16,
        prompts: None,
        name: PUBLISHED.to_owned(),
        licence: "see the publishers: TinyGPT-V and LAVIS BSD-3-Clause, Phi-2 MIT, BLIP-2 ITM MIT".to_owned(),
        intended_use: "descriptions and search of pictures for review by people; not for judging persons"
            .to_owned(),
        golden_picture: None,
        out,
    })
}

async fn fetch_missing(checkpoint: &Path) -> anyhow::Result<()> {
    let missing = missing_files(checkpoint, STAGE);
    if missing.is_empty() {
        return Ok(());
    }
    let client = HFClient::new().context("the Hugging Face client cannot be made")?;
    let mut sums = recorded(checkpoint);
    for file in missing {
        tracing::info!(file = file.local, "fetching a published file");
        let place = checkpoint.join(file.local);
        fetch(&client, &file, &place).await.with_context(|| format!("fetch {}", file.local))?;
        let hashed = place.clone();
        let sum = tokio::task::spawn_blocking(move || sha256(&hashed)).await??;
        sums.insert(file.local.to_owned(), sum);
        cache::write_whole(&checkpoint.join(RECORD), &serde_json::to_vec_pretty(&sums)?)?;
    }
    Ok(())
}

async fn fetch(client: &HFClient, file: &PublishedFile, place: &Path) -> anyhow::Result<()> {
    let parent = place.parent().context("a published file lies in a folder")?;
    tokio::fs::create_dir_all(parent).await?;
    match file.location {
        PublishedLocation::Hub { repository, revision, file: name } => {
            let (owner, repository) = repository.split_once('/').context("a repository has an owner")?;
            let fetched = client
                .model(owner, repository)
                .download_file()
                .filename(name.to_owned())
                .revision(revision.to_owned())
                .send()
                .await
                .map_err(|error: HFError| anyhow::anyhow!(error))?;
            // The hub's cache keeps its own copy; a link costs nothing where the file system allows one.
            let source = tokio::fs::canonicalize(&fetched).await?;
            if tokio::fs::hard_link(&source, place).await.is_err() {
                tokio::fs::copy(&source, place).await?;
            }
        }
        PublishedLocation::Url(url) => download(url, place).await?,
    }
    if let Some(bytes) = file.bytes {
        let found = tokio::fs::metadata(place).await?.len();
        if found != bytes {
            tracing::warn!(
                file = file.local,
                expected = bytes,
                found,
                "a published file has another size than known"
            );
        }
    }
    Ok(())
}

async fn download(url: &str, place: &Path) -> anyhow::Result<()> {
    let mut body = reqwest::get(url).await?.error_for_status()?.bytes_stream();
    let unfinished = place.with_extension("part");
    let mut out = tokio::fs::File::create(&unfinished).await?;
    while let Some(piece) = body.try_next().await? {
        out.write_all(&piece).await?;
    }
    out.sync_all().await?;
    Ok(tokio::fs::rename(&unfinished, place).await?)
}

fn recorded(checkpoint: &Path) -> BTreeMap<String, String> {
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
