//! One step on the device: tensors in, tensors out; no request, no reply.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{PreparedPicture, SquareImage, pixel_values};
use captionfleet_model::{
    Adapter, DecodeRow, DegenerateLogits, KvCache, Pause, PrefillRow, RetrievalHead, Sampled,
};
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
    /// Forgets what was not asked for.
    pub(super) fn keep_only(&mut self, row: &Wanted<'_>) {
        self.image_tokens.take_if(|_| !row.caption);
        self.embedding.take_if(|_| !row.embed);
    }

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
        if !captioned.is_empty() {
            let features = select(&features, &captioned, rows.len())?;
            fill_tokens(loaded, &features, rows, &captioned, &mut tokens, pause)?;
        }
        if !retrieved.is_empty() {
            let features = select(&features, &retrieved, rows.len())?;
            retrieve(loaded, &features, rows, &retrieved, &mut found, pause)?;
        }
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

fn indices<T>(rows: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
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

/// The chosen rows of `features`, of which there is at least one, as a GPU copies nothing else; passed on as it is where all are
/// chosen.
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

/// Logits of a step's rows `(rows, vocab)`, where the network left them.
#[derive(Debug)]
pub(super) struct Logits(Tensor);

/// What is known of the token that follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scores {
    /// The logit of every token.
    All(Vec<f32>),
    /// The likeliest token alone.
    Likeliest(Result<Sampled, DegenerateLogits>),
}

impl Logits {
    /// Of each row what it is asked for: `likeliest` says whether the likeliest token is enough, where the device finds it.
    pub(super) fn scores(
        &self,
        loaded: &LoadedModel,
        likeliest: &[bool],
    ) -> Result<Vec<Scores>, EngineError> {
        let found = if likeliest.contains(&true) {
            loaded.model.likeliest(&self.0, loaded.tokenizer.vocab_len())?
        } else {
            None
        };
        let Some(found) = found else { return Ok(self.rows()?.into_iter().map(Scores::All).collect()) };
        let others = indices(likeliest, |enough| !enough);
        let others = match others.len() {
            0 => Vec::new(),
            _ => Self(select(&self.0, &others, likeliest.len())?).rows()?,
        };
        let mut others = others.into_iter();
        let one = |(found, is_enough)| {
            if is_enough { Scores::Likeliest(found) } else { Scores::All(others.next().unwrap_or_default()) }
        };
        Ok(found.into_iter().zip(likeliest.iter().copied()).map(one).collect())
    }

    /// All of them, row by row.
    pub(super) fn rows(&self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(self.0.to_vec2::<f32>()?)
    }

    /// Of numbers.
    #[cfg(test)]
    pub(super) fn of(rows: Vec<Vec<f32>>) -> Self {
        Self(Tensor::new(rows, &Device::Cpu).expect("rows of one length make a tensor"))
    }
}

/// Reads prompts into their slots; one row of logits each.
pub(super) fn prefill(
    loaded: &LoadedModel,
    rows: &[PrefillRow],
    cache: &mut KvCache,
    pause: Pause<'_>,
) -> Result<Logits, EngineError> {
    Ok(Logits(loaded.model.prefill_pausing(rows, cache, pause)?))
}

/// One more token for each row; one row of logits each.
pub(super) fn decode(
    loaded: &LoadedModel,
    rows: &[DecodeRow],
    cache: &mut KvCache,
) -> Result<Logits, EngineError> {
    Ok(Logits(loaded.model.decode(rows, cache)?))
}
