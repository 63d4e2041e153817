//! Whether a picture's caption depends on the pictures beside it.

use std::sync::Arc;

use captionfleet_model::SamplingOptions;
use captionfleet_model::preprocess::PreparedPicture;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::app::{EngineSettings, ReadyModel};
use crate::engine::{
    Ask, CaptionRequest, CaptionResult, EngineError, EngineHandle, EngineInfo, Priority, Unobserved,
};

/// How many answers are the same.
#[derive(Serialize)]
pub(super) struct Invariance {
    pub(super) pictures: usize,
    pub(super) same_captions: usize,
    pub(super) embeddings: usize,
    /// To the last bit.
    pub(super) same_embeddings: usize,
}

impl Invariance {
    /// Captions that are the same.
    pub(super) fn share(&self) -> f64 {
        self.same_captions as f64 / self.pictures.max(1) as f64
    }
}

/// What is compared: the caption or the reason for which there is none, and the embedding.
#[derive(PartialEq)]
struct Answer {
    caption: Result<String, String>,
    embedding: Option<Vec<half::f16>>,
}

/// Captions every picture alone, on one engine, and then all of them on a fresh one, in random order and among others with
/// random prompts and lengths.
pub(super) async fn run(
    model: &ReadyModel,
    settings: EngineSettings,
    pictures: &[PreparedPicture],
    max_tokens: usize,
) -> anyhow::Result<Invariance> {
    let alone = with_engine(model, settings, async |handle| {
        let mut answers = Vec::new();
        for picture in pictures {
            answers.push(answer(handle.caption(measured(handle.info(), picture, max_tokens)).await)?);
        }
        Ok(answers)
    })
    .await?;
    let together =
        with_engine(model, settings, async |handle| crowd(handle, pictures, max_tokens).await).await?;
    let count = |same: fn(&(&Answer, &Answer)) -> bool| alone.iter().zip(&together).filter(same).count();
    Ok(Invariance {
        pictures: pictures.len(),
        same_captions: count(|(one, other)| one.caption == other.caption),
        embeddings: count(|(one, _)| one.embedding.is_some()),
        same_embeddings: count(|(one, other)| one.embedding.is_some() && one.embedding == other.embedding),
    })
}

async fn with_engine<T>(
    model: &ReadyModel,
    settings: EngineSettings,
    work: impl AsyncFnOnce(&EngineHandle) -> Result<T, EngineError>,
) -> anyhow::Result<T> {
    let engine = model.start(settings, Arc::new(Unobserved))?;
    let handle = engine.handle();
    let result = work(&handle).await;
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    Ok(result?)
}

async fn crowd(
    handle: &EngineHandle,
    pictures: &[PreparedPicture],
    max_tokens: usize,
) -> Result<Vec<Answer>, EngineError> {
    let mut random = StdRng::seed_from_u64(1);
    // Each picture once for the comparison, and as many again to keep it company.
    let mut requests: Vec<(Option<usize>, CaptionRequest)> = Vec::new();
    for (at, picture) in pictures.iter().enumerate() {
        requests.push((Some(at), measured(handle.info(), picture, max_tokens)));
        let beside = &pictures[random.random_range(0..pictures.len())];
        requests.push((None, company(handle.info(), beside, &mut random)));
    }
    requests.shuffle(&mut random);
    let asked = requests.into_iter().map(async |(at, request)| (at, handle.caption(request).await));
    let mut answers = Vec::new();
    for (at, result) in join_all(asked).await {
        if let Some(at) = at {
            answers.push((at, answer(result)?));
        }
    }
    answers.sort_unstable_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

fn measured(info: &EngineInfo, picture: &PreparedPicture, max_tokens: usize) -> CaptionRequest {
    CaptionRequest {
        picture: picture.clone(),
        asks: asks(&info.prompts.caption, max_tokens),
        adapter: None,
        embed: info.embedding_space.is_some(),
        priority: Priority::Bulk,
    }
}

fn asks(prompt: &str, max_new_tokens: usize) -> Arc<[Ask]> {
    Ask::alone(prompt.into(), SamplingOptions { max_new_tokens, ..SamplingOptions::default() })
}

fn company(info: &EngineInfo, picture: &PreparedPicture, random: &mut StdRng) -> CaptionRequest {
    let question = "Is it so? ".repeat(random.random_range(1..8));
    CaptionRequest {
        asks: asks(&info.prompts.ask.replace("{question}", &question), random.random_range(1..40)),
        priority: if random.random_bool(0.2) { Priority::Interactive } else { Priority::Bulk },
        ..measured(info, picture, 1)
    }
}

/// Noise is an answer, too: it must be the same noise.
fn answer(result: Result<CaptionResult, EngineError>) -> Result<Answer, EngineError> {
    match result {
        Ok(result) => Ok(Answer { caption: Ok(result.caption), embedding: result.embedding }),
        Err(error @ EngineError::Degenerate(_)) => {
            Ok(Answer { caption: Err(error.to_string()), embedding: None })
        }
        Err(error) => Err(error),
    }
}
