//! One step on the device: tensors in, tensors out; no request, no reply.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{PreparedPicture, SquareImage, pixel_values};
use captionfleet_model::{Adapter, DecodeRow, KvCache, Pause, PrefillRow, RetrievalHead};
use half::f16;

use super::EngineError;
use super::feature_cache::Seen;

/// What one picture of a vision batch is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) picture: &'a PreparedPicture,
    pub(super) caption: bool,
    pub(super) embed: bool,
    pub(super) adapter: Option<&'a Arc<Adapter>>,
    /// The ids of a text that it is compared with.
    pub(super) text: Option<&'a [u32]>,
}

impl<'a> Wanted<'a> {
    /// A picture whose embedding alone is wanted.
    pub(super) fn embedding(picture: &'a PreparedPicture) -> Self {
        Self { picture, caption: false, embed: true, adapter: None, text: None }
    }
}

/// One picture's share of a vision batch.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) image_tokens: Option<Tensor>,
    pub(super) embedding: Option<Vec<f16>>,
    /// Of the text that it is compared with.
    pub(super) log_odds: Option<f32>,
}

impl Sight {
    /// What a caption goes on with.
    pub(super) fn for_caption(self) -> Option<Seen> {
        Some(Seen { image_tokens: self.image_tokens?, embedding: self.embedding })
    }
}

/// Vision tower, Q-Formers and projections for a batch of pictures: one pass where the bundle shares it.
pub(super) fn vision(
    loaded: &LoadedModel,
    rows: &[Wanted<'_>],
    pause: Pause<'_>,
) -> Result<Vec<Sight>, EngineError> {
    let model = &loaded.model;
    let captioned: Vec<usize> = indices(rows, |row| row.caption);
    let retrieved: Vec<usize> = indices(rows, |row| row.embed || row.text.is_some());
    let (mut tokens, mut found) = (vec![None; rows.len()], vec![Retrieved::default(); rows.len()]);
    if model.shares_vision_pass() {
        let pixels = caption_pixels(loaded, rows, &(0..rows.len()).collect::<Vec<_>>())?;
        let features = model.vision_features_pausing(&pixels, pause)?;
        let captions = select(&features, &captioned, rows.len())?;
        fill_tokens(loaded, &captions, rows, &captioned, &mut tokens, pause)?;
        let retrieval = select(&features, &retrieved, rows.len())?;
        retrieve(loaded, &retrieval, rows, &retrieved, &mut found, pause)?;
    } else {
        if !captioned.is_empty() {
            let pixels = caption_pixels(loaded, rows, &captioned)?;
            let features = model.vision_features_pausing(&pixels, pause)?;
            fill_tokens(loaded, &features, rows, &captioned, &mut tokens, pause)?;
        }
        if !retrieved.is_empty() {
            let pictures: Vec<&SquareImage> = retrieved
                .iter()
                .map(|&row| rows[row].picture.retrieval.as_ref().unwrap_or(&rows[row].picture.caption))
                .collect();
            let pixels = pixel_values(&pictures, model.device())?;
            let features = model.retrieval_features_pausing(&pixels, pause)?;
            retrieve(loaded, &features, rows, &retrieved, &mut found, pause)?;
        }
    }
    let sight =
        |(image_tokens, Retrieved { embedding, log_odds })| Sight { image_tokens, embedding, log_odds };
    Ok(tokens.into_iter().zip(found).map(sight).collect())
}

/// What the retrieval heads made of a picture.
#[derive(Debug, Clone, Default)]
struct Retrieved {
    embedding: Option<Vec<f16>>,
    log_odds: Option<f32>,
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
    pause: Pause<'_>,
) -> Result<(), EngineError> {
    if chosen.is_empty() {
        return Ok(());
    }
    let adapters: Vec<_> = chosen.iter().map(|&row| rows[row].adapter.cloned()).collect();
    let batch = loaded.model.image_tokens_with(features, &adapters, pause)?;
    for (index, &row) in chosen.iter().enumerate() {
        // A copy: a view would keep the whole batch alive for as long as one picture of it is remembered.
        tokens[row] = Some(batch.get(index)?.force_contiguous()?);
    }
    Ok(())
}

/// The retrieval heads over the `chosen` rows, whose features are given in this order.
fn retrieve(
    loaded: &LoadedModel,
    features: &Tensor,
    rows: &[Wanted<'_>],
    chosen: &[usize],
    found: &mut [Retrieved],
    pause: Pause<'_>,
) -> Result<(), EngineError> {
    if chosen.is_empty() {
        return Ok(());
    }
    let head = head(loaded)?;
    let embedded: Vec<usize> = (0..chosen.len()).filter(|&place| rows[chosen[place]].embed).collect();
    if !embedded.is_empty() {
        let features = select(features, &embedded, chosen.len())?;
        let batch = head.image_embeddings_pausing(&features, pause)?;
        let batch = batch.to_dtype(DType::F16)?.flatten_from(1)?;
        for (embedding, place) in batch.to_vec2::<f16>()?.into_iter().zip(embedded) {
            found[chosen[place]].embedding = Some(embedding);
        }
    }
    for (place, &row) in chosen.iter().enumerate() {
        if let Some(ids) = rows[row].text {
            found[row].log_odds = Some(head.match_log_odds(&features.get(place)?, ids)?);
            pause();
        }
    }
    Ok(())
}

/// An embedding, given vector after vector, as vectors of `dimension` values.
pub(super) fn vectors(flat: &[f16], dimension: usize) -> Vec<Vec<f32>> {
    let wide = |vector: &[f16]| vector.iter().map(|value| value.to_f32()).collect();
    flat.chunks(dimension.max(1)).map(wide).collect()
}

/// The embedding of a text query.
pub(super) fn text(loaded: &LoadedModel, query: &str) -> Result<Vec<f32>, EngineError> {
    let head = head(loaded)?;
    let tokenizer = loaded.text_tokenizer.as_ref().ok_or(EngineError::NoRetrievalHead)?;
    let embedding = head.text_embedding(&tokenizer.encode(query)?)?;
    Ok(embedding.flatten_all()?.to_vec1::<f32>()?)
}

/// A product of ones there and back, which every device that computes gets right.
pub(super) fn small_product(device: &Device) -> Result<(), EngineError> {
    const SIDE: usize = 16;
    let ones = Tensor::ones((SIDE, SIDE), DType::F32, device)?;
    let product = ones.matmul(&ones)?.flatten_all()?.to_vec1::<f32>()?;
    if let Some(wrong) = product.into_iter().find(|value| (value - SIDE as f32).abs() > f32::EPSILON) {
        return Err(EngineError::Model(format!("{SIDE} ones came to {wrong} on the device")));
    }
    Ok(())
}

fn head(loaded: &LoadedModel) -> Result<&RetrievalHead, EngineError> {
    loaded.model.retrieval().ok_or(EngineError::NoRetrievalHead)
}

/// Reads prompts into their slots; one row of logits each.
pub(super) fn prefill(
    loaded: &LoadedModel,
    rows: &[PrefillRow],
    cache: &mut KvCache,
    pause: Pause<'_>,
) -> Result<Vec<Vec<f32>>, EngineError> {
    Ok(loaded.model.prefill_pausing(rows, cache, pause)?.to_vec2::<f32>()?)
}

/// One more token for each row; one row of logits each.
pub(super) fn decode(
    loaded: &LoadedModel,
    rows: &[DecodeRow],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>, EngineError> {
    Ok(loaded.model.decode(rows, cache)?.to_vec2::<f32>()?)
}
