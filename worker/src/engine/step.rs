//! One step on the device: tensors in, tensors out; no request, no reply.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{PreparedPicture, SquareImage, pixel_values};
use captionfleet_model::{Adapter, DecodeRow, KvCache, PrefillRow, RetrievalHead};
use half::f16;

use super::EngineError;
use super::sequence::Seen;

/// What one picture of a vision batch is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) picture: &'a PreparedPicture,
    pub(super) caption: bool,
    pub(super) embed: bool,
    pub(super) adapter: Option<&'a Arc<Adapter>>,
}

/// One picture's share of a vision batch.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) image_tokens: Option<Tensor>,
    pub(super) embedding: Option<Vec<f16>>,
}

impl Sight {
    /// What a caption goes on with.
    pub(super) fn for_caption(self) -> Option<Seen> {
        Some(Seen { image_tokens: self.image_tokens?, embedding: self.embedding })
    }
}

/// Vision tower, Q-Formers and projections for a batch of pictures: one pass where the bundle shares it.
pub(super) fn vision(loaded: &LoadedModel, rows: &[Wanted<'_>]) -> Result<Vec<Sight>, EngineError> {
    let model = &loaded.model;
    let captioned: Vec<usize> = indices(rows, |row| row.caption);
    let embedded: Vec<usize> = indices(rows, |row| row.embed);
    let (mut tokens, mut embeddings) = (vec![None; rows.len()], vec![None; rows.len()]);
    if model.shares_vision_pass() {
        let pixels = caption_pixels(loaded, rows, &(0..rows.len()).collect::<Vec<_>>())?;
        let features = model.vision_features(&pixels)?;
        fill_tokens(loaded, &select(&features, &captioned, rows.len())?, rows, &captioned, &mut tokens)?;
        fill_embeddings(loaded, &select(&features, &embedded, rows.len())?, &embedded, &mut embeddings)?;
    } else {
        if !captioned.is_empty() {
            let features = model.vision_features(&caption_pixels(loaded, rows, &captioned)?)?;
            fill_tokens(loaded, &features, rows, &captioned, &mut tokens)?;
        }
        if !embedded.is_empty() {
            let pictures: Vec<&SquareImage> = embedded
                .iter()
                .map(|&row| rows[row].picture.retrieval.as_ref().unwrap_or(&rows[row].picture.caption))
                .collect();
            let features = model.retrieval_features(&pixel_values(&pictures, model.device())?)?;
            fill_embeddings(loaded, &features, &embedded, &mut embeddings)?;
        }
    }
    Ok(tokens
        .into_iter()
        .zip(embeddings)
        .map(|(image_tokens, embedding)| Sight { image_tokens, embedding })
        .collect())
}

fn indices(rows: &[Wanted<'_>], wanted: impl Fn(&Wanted<'_>) -> bool) -> Vec<usize> {
    (0..rows.len()).filter(|&row| wanted(&rows[row])).collect()
}

fn caption_pixels(
    loaded: &LoadedModel,
    rows: &[Wanted<'_>],
    chosen: &[usize],
) -> Result<Tensor, EngineError> {
    let pictures: Vec<&SquareImage> = chosen.iter().map(|&row| &rows[row].picture.caption).collect();
    Ok(pixel_values(&pictures, loaded.model.device())?)
}

/// The chosen rows of `features`, which is passed on as it is where all are chosen.
fn select(features: &Tensor, chosen: &[usize], all: usize) -> Result<Tensor, EngineError> {
    if chosen.len() == all {
        return Ok(features.clone());
    }
    let chosen: Vec<u32> = chosen.iter().map(|&row| row as u32).collect();
    Ok(features.index_select(&Tensor::new(chosen, features.device())?, 0)?)
}

fn fill_tokens(
    loaded: &LoadedModel,
    features: &Tensor,
    rows: &[Wanted<'_>],
    chosen: &[usize],
    tokens: &mut [Option<Tensor>],
) -> Result<(), EngineError> {
    if chosen.is_empty() {
        return Ok(());
    }
    let adapters: Vec<_> = chosen.iter().map(|&row| rows[row].adapter.cloned()).collect();
    let batch = loaded.model.image_tokens_with(features, &adapters)?;
    for (index, &row) in chosen.iter().enumerate() {
        // A copy: a view would keep the whole batch alive for as long as one picture of it is remembered.
        tokens[row] = Some(batch.get(index)?.force_contiguous()?);
    }
    Ok(())
}

fn fill_embeddings(
    loaded: &LoadedModel,
    features: &Tensor,
    rows: &[usize],
    embeddings: &mut [Option<Vec<f16>>],
) -> Result<(), EngineError> {
    if rows.is_empty() {
        return Ok(());
    }
    let batch = head(loaded)?.image_embeddings(features)?.to_dtype(DType::F16)?.flatten_from(1)?;
    for (embedding, &row) in batch.to_vec2::<f16>()?.into_iter().zip(rows) {
        embeddings[row] = Some(embedding);
    }
    Ok(())
}

/// The embedding of a text query.
pub(super) fn text(loaded: &LoadedModel, query: &str) -> Result<Vec<f32>, EngineError> {
    let head = head(loaded)?;
    let tokenizer = loaded.text_tokenizer.as_ref().ok_or(EngineError::NoRetrievalHead)?;
    let embedding = head.text_embedding(&tokenizer.encode(query)?)?;
    Ok(embedding.flatten_all()?.to_vec1::<f32>()?)
}

fn head(loaded: &LoadedModel) -> Result<&RetrievalHead, EngineError> {
    loaded.model.retrieval().ok_or(EngineError::NoRetrievalHead)
}

/// Reads prompts into their slots; one row of logits each.
pub(super) fn prefill(
    loaded: &LoadedModel,
    rows: &[PrefillRow],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>, EngineError> {
    Ok(loaded.model.prefill(rows, cache)?.to_vec2::<f32>()?)
}

/// One more token for each row; one row of logits each.
pub(super) fn decode(
    loaded: &LoadedModel,
    rows: &[DecodeRow],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>, EngineError> {
    Ok(loaded.model.decode(rows, cache)?.to_vec2::<f32>()?)
}
