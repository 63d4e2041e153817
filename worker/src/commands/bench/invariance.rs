//! Whether a picture's caption depends on the pictures beside it.

use captionfleet_model::SamplingOptions;
use captionfleet_model::preprocess::PreparedPicture;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::engine::{
    Ask, CaptionRequest, CaptionResult, Engine, EngineError, EngineHandle, EngineInfo, Priority,
};

/// The least share of captions that must be the same on a GPU, whose products may round otherwise in a larger batch. On a
/// CPU, and where steps have always the same rows, everything is the same.
const LEAST_ON_GPU: f64 = 0.999;
/// The least cosine between a picture's embeddings alone and in company that still makes them the same one, but for how
/// products are rounded.
const LEAST_COSINE: f64 = 0.999;

/// How many answers are the same.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Invariance {
    pub(super) pictures: usize,
    pub(super) same_captions: usize,
    /// Captions whose tokens also have the same probabilities, to the last bit of their sum.
    pub(super) same_probabilities: usize,
    pub(super) embeddings: usize,
    /// To the last bit.
    pub(super) same_embeddings: usize,
    /// But for how products are rounded.
    pub(super) near_embeddings: usize,
    /// Pictures of which nothing was said but noise, so that nothing could be compared.
    pub(super) degenerate: usize,
    /// Whether weights and tokens are drawn.
    drawn: bool,
    /// Whether all are to be the same to the last bit: on a CPU, or where it was asked for.
    exact: bool,
}

impl Invariance {
    /// Captions that are the same, of those that can be compared.
    pub(super) fn share(&self) -> f64 {
        self.same_captions as f64 / (self.pictures - self.degenerate).max(1) as f64
    }

    /// Whether no more depends on the company than the device permits. Drawn tokens follow from every last bit of their
    /// probabilities, about which a GPU promises nothing: there the embeddings are judged alone.
    pub(super) fn is_as_it_should_be(&self) -> bool {
        let compared = self.pictures - self.degenerate;
        if compared == 0 {
            return false;
        }
        if !self.exact {
            let are_said = self.drawn || self.share() >= LEAST_ON_GPU;
            return are_said && self.near_embeddings == self.embeddings;
        }
        let is_said = self.same_captions == compared && self.same_probabilities == compared;
        is_said && self.same_embeddings == self.embeddings
    }
}

/// What is compared; nothing where the answer was noise.
struct Answer {
    caption: Option<Caption>,
    embedding: Option<Vec<half::f16>>,
}

/// What was said, and how likely it was.
struct Caption {
    text: String,
    tokens: u32,
    logprob: f64,
}

impl Answer {
    fn said(&self) -> Option<(&str, u32)> {
        self.caption.as_ref().map(|caption| (&*caption.text, caption.tokens))
    }

    fn bits(&self) -> Option<u64> {
        self.caption.as_ref().map(|caption| caption.logprob.to_bits())
    }

    fn looks_like(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (&self.embedding, &other.embedding) else { return false };
        let product = |a: &[half::f16], b: &[half::f16]| -> f64 {
            a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
        };
        product(one, other) / (product(one, one) * product(other, other)).sqrt() >= LEAST_COSINE
    }
}

/// Captions every picture alone, on one engine, and then all of them on a fresh one, in random order and among others with
/// random prompts and lengths.
pub(super) async fn run(
    start: impl Fn() -> anyhow::Result<Engine>,
    is_random: bool,
    pictures: &[PreparedPicture],
    max_tokens: usize,
    is_batch_invariant: bool,
) -> anyhow::Result<Invariance> {
    let measured = |info: &EngineInfo, at: usize| CaptionRequest {
        picture: pictures[at].clone(),
        asks: Ask::alone(info.prompts.caption.as_str().into(), sampling(is_random, at, max_tokens)),
        adapter: None,
        embed: info.embedding_space.is_some(),
        priority: Priority::Bulk,
    };
    let mut exact = is_batch_invariant;
    let alone = with_engine(start()?, async |handle| {
        exact |= handle.info().device == "cpu";
        let mut answers = Vec::new();
        for at in 0..pictures.len() {
            answers.push(answer(handle.caption(measured(handle.info(), at)).await)?);
        }
        Ok(answers)
    })
    .await?;
    let together =
        with_engine(start()?, async |handle| crowd(handle, pictures.len(), measured).await).await?;
    let count = |same: fn(&(&Answer, &Answer)) -> bool| alone.iter().zip(&together).filter(same).count();
    Ok(Invariance {
        pictures: pictures.len(),
        same_captions: count(|(one, other)| one.caption.is_some() && one.said() == other.said()),
        same_probabilities: count(|(one, other)| one.caption.is_some() && one.bits() == other.bits()),
        embeddings: count(|(one, _)| one.embedding.is_some()),
        same_embeddings: count(|(one, other)| one.embedding.is_some() && one.embedding == other.embedding),
        near_embeddings: count(|(one, other)| one.looks_like(other)),
        degenerate: count(|(one, other)| one.caption.is_none() && other.caption.is_none()),
        drawn: is_random,
        exact,
    })
}

async fn with_engine<T>(
    engine: Engine,
    work: impl AsyncFnOnce(&EngineHandle) -> Result<T, EngineError>,
) -> anyhow::Result<T> {
    let handle = engine.handle();
    let result = work(&handle).await;
    drop(handle);
    tokio::task::spawn_blocking(move || engine.join()).await??;
    Ok(result?)
}

async fn crowd(
    handle: &EngineHandle,
    pictures: usize,
    measured: impl Fn(&EngineInfo, usize) -> CaptionRequest,
) -> Result<Vec<Answer>, EngineError> {
    let mut random = StdRng::seed_from_u64(1);
    // Each picture once for the comparison, and as many again to keep it company.
    let mut requests: Vec<(Option<usize>, CaptionRequest)> = Vec::new();
    for at in 0..pictures {
        requests.push((Some(at), measured(handle.info(), at)));
        let beside = measured(handle.info(), random.random_range(0..pictures));
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

/// How picture `number` is captioned. Drawn weights would say one token for ever, whatever they see.
fn sampling(is_random: bool, number: usize, max_new_tokens: usize) -> SamplingOptions {
    let greedy = SamplingOptions { max_new_tokens, ..SamplingOptions::default() };
    if !is_random {
        return greedy;
    }
    SamplingOptions { temperature: 1.0, seed: number as u64, ..greedy }
}

/// Another question about the same picture, with an answer of another length.
fn company(info: &EngineInfo, about: CaptionRequest, random: &mut StdRng) -> CaptionRequest {
    let question = "Is it so? ".repeat(random.random_range(1..8));
    let sampling =
        SamplingOptions { max_new_tokens: random.random_range(1..40), ..SamplingOptions::default() };
    CaptionRequest {
        asks: Ask::alone(info.prompts.ask.replace("{question}", &question).into(), sampling),
        priority: if random.random_bool(0.2) { Priority::Interactive } else { Priority::Bulk },
        ..about
    }
}

fn answer(result: Result<CaptionResult, EngineError>) -> Result<Answer, EngineError> {
    match result {
        Ok(result) => {
            let logprob = result.said.iter().map(|said| said.logprob).sum();
            let caption = Caption { text: result.caption, tokens: result.tokens, logprob };
            Ok(Answer { caption: Some(caption), embedding: result.embedding })
        }
        Err(EngineError::Degenerate(_)) => Ok(Answer { caption: None, embedding: None }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::pictures::drawn;
    use super::*;
    use crate::demo_model;
    use crate::engine::fault_tests::{crowded_engine, sound_engine};

    async fn measured(start: fn() -> Engine, is_random: bool) -> Invariance {
        let pictures = drawn(12, &demo_model::bundle().unwrap());
        run(|| Ok(start()), is_random, &pictures, 12, false).await.unwrap()
    }

    #[test]
    fn a_gpu_may_round_and_nothing_more() {
        let sound = Invariance {
            pictures: 2000,
            same_captions: 1998,
            same_probabilities: 0,
            embeddings: 2000,
            same_embeddings: 0,
            near_embeddings: 2000,
            degenerate: 0,
            drawn: false,
            exact: false,
        };
        assert!(sound.is_as_it_should_be());
        assert!(!Invariance { same_captions: 1997, ..sound }.is_as_it_should_be());
        let drawn = Invariance { same_captions: 0, drawn: true, ..sound };
        assert!(drawn.is_as_it_should_be());
        for is_drawn in [false, true] {
            let of_another = Invariance { near_embeddings: 1999, drawn: is_drawn, ..sound };
            assert!(!of_another.is_as_it_should_be(), "{of_another:?}");
        }
        let exact = Invariance { exact: true, same_captions: 2000, ..sound };
        assert!(!exact.is_as_it_should_be(), "where every bit was asked for");
        let exact = Invariance { same_probabilities: 2000, same_embeddings: 2000, ..exact };
        assert!(exact.is_as_it_should_be());
    }

    #[test]
    fn embeddings_that_differ_by_rounding_alone_are_near() {
        let of = |values: &[f32]| Answer {
            caption: None,
            embedding: Some(values.iter().copied().map(half::f16::from_f32).collect()),
        };
        let one = of(&[0.5, -0.5, 0.5, 0.5]);
        assert!(one.looks_like(&of(&[0.5002, -0.4998, 0.5, 0.5])));
        for other in [[0.5, 0.5, 0.5, 0.5], [0.0; 4], [f32::NAN, -0.5, 0.5, 0.5]] {
            assert!(!one.looks_like(&of(&other)), "{other:?}");
        }
        assert!(!one.looks_like(&Answer { caption: None, embedding: None }));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_network_that_hears_its_neighbours_is_found() {
        for is_random in [false, true] {
            let sound = measured(sound_engine, is_random).await;
            assert!(sound.is_as_it_should_be() && sound.near_embeddings == 12, "{sound:?}");
            let crowded = measured(crowded_engine, is_random).await;
            assert!(!crowded.is_as_it_should_be() && crowded.same_probabilities < 12, "{crowded:?}");
        }
    }
}
