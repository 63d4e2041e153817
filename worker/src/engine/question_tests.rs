//! Several things asked about one picture: one look at it, and answers that depend on nothing else.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use captionfleet_model::SamplingOptions;
use captionfleet_model::constraint::ValueForm;
use captionfleet_model::preprocess::pixel_values;
use captionfleet_model::{PromptTokens, score};
use futures::future::join_all;

use super::tests::{loaded, request, start};
use super::*;
use crate::engine::{Said, Stage, Unobserved};

const CHOICES: [&str; 4] = ["red", "blue", "white", "black and white"];

fn ask(engine: &EngineHandle, question: &str, manner: Manner) -> Ask {
    let prompt = engine.info().prompts.ask(question).unwrap().into();
    Ask { prompt, sampling: SamplingOptions { max_new_tokens: 12, ..SamplingOptions::default() }, manner }
}

/// One picture with ten things asked about it, of every manner.
fn many_asks(engine: &EngineHandle, seed: u64) -> CaptionRequest {
    let values = |values: &[&str]| ValueForm::OneOf(values.iter().map(|value| (*value).to_owned()).collect());
    let within = |form| Manner::Within(engine.constraint(form).unwrap());
    let mut asks: Vec<Ask> = CHOICES
        .map(|choice| ask(engine, "What color is the background?", Manner::Exactly(choice.into())))
        .to_vec();
    asks.push(ask(engine, "What color is the background?", Manner::Free));
    asks.push(ask(engine, "What color is the background?", Manner::Unended));
    asks.push(ask(engine, "What color is the background?", within(values(&["white", "gray", "black"]))));
    asks.push(ask(
        engine,
        "How many objects are there?",
        within(ValueForm::Integer { minimum: 0, maximum: 9 }),
    ));
    asks.push(ask(engine, "Is there a circle?", within(ValueForm::boolean())));
    asks.push(ask(engine, "What do you see?", within(ValueForm::Text { most: 9 })));
    CaptionRequest { asks: asks.into(), ..request(seed, &engine.info().prompts.caption, 1) }
}

/// What decides a row, bit for bit.
fn essence(said: &Said) -> (String, u32, u64, Option<u64>) {
    (said.text.clone(), said.tokens, said.logprob.to_bits(), said.share.map(f64::to_bits))
}

/// Counts pictures that the vision tower looked at.
#[derive(Default)]
struct Looks(AtomicUsize);

impl EngineObserver for Looks {
    fn stage(&self, stage: Stage, _: f64, rows: usize, _: usize) {
        if stage == Stage::Vision {
            self.0.fetch_add(rows, Ordering::Relaxed);
        }
    }
    fn tokens(&self, _: usize) {}
    fn idle(&self, _: f64) {}
    fn out_of_memory(&self, _: Stage, _: usize) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_looked_at_once_however_much_is_asked() {
    let looks = Arc::new(Looks::default());
    // No feature cache: what is seen is handed on.
    let engine = start(Box::new(loaded()), 3, looks.clone()).handle();
    let result = engine.caption(many_asks(&engine, 1)).await.unwrap();
    assert_eq!((result.said.len(), looks.0.load(Ordering::Relaxed)), (10, 1));
    assert!(result.embedding.is_some());
    assert_eq!(result.tokens, result.said.iter().map(|said| said.tokens).sum::<u32>());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_every_manner_are_the_same_in_any_company() {
    let alone = start(Box::new(loaded()), 1, Arc::new(Unobserved));
    let crowd = start(Box::new(loaded()), 16, Arc::new(Unobserved));
    let (alone, crowd) = (alone.handle(), crowd.handle());
    let together = join_all((0..6).map(|seed| crowd.caption(many_asks(&crowd, seed)))).await;
    for (seed, together) in (0..6).zip(together) {
        let whole = many_asks(&alone, seed);
        for (at, said) in together.unwrap().said.iter().enumerate() {
            let one = CaptionRequest { asks: vec![whole.asks[at].clone()].into(), ..whole.clone() };
            let by_itself = alone.caption(one).await.unwrap();
            assert_eq!(essence(said), essence(&by_itself.said[0]), "picture {seed}, ask {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_have_the_losses_of_the_reference_scoring() {
    let engine = start(Box::new(loaded()), 8, Arc::new(Unobserved)).handle();
    let request = many_asks(&engine, 3);
    let said = engine.caption(request.clone()).await.unwrap().said;
    let model = &loaded().model;
    let pixels = pixel_values(&[&request.picture.caption], model.device()).unwrap();
    let tokens = model.image_tokens(&model.vision_features(&pixels).unwrap()).unwrap().get(0).unwrap();
    let prompt = PromptTokens::new(&loaded().tokenizer, &request.asks[0].prompt).unwrap();
    let answers = CHOICES.map(|choice| answer_tokens(&loaded().tokenizer, choice).unwrap());
    let losses = score(model, &tokens, &prompt, loaded().tokenizer.end_of_text(), &answers).unwrap();
    for ((said, loss), choice) in said.iter().zip(losses).zip(CHOICES) {
        let mean = -said.logprob / f64::from(said.tokens);
        assert_eq!(said.text, choice);
        assert!((mean - f64::from(loss)).abs() < 1e-3, "{choice}: {mean} and {loss}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constrained_answer_has_its_form_and_an_impossible_one_fails() {
    let engine = start(Box::new(loaded()), 8, Arc::new(Unobserved)).handle();
    for seed in 0..8 {
        let said = engine.caption(many_asks(&engine, seed)).await.unwrap().said;
        assert!(["white", "gray", "black"].contains(&&*said[6].text), "{}", said[6].text);
        assert!((0..=9).contains(&ValueForm::integer(&said[7].text).unwrap()), "{}", said[7].text);
        assert!(["yes", "no", "true", "false"].contains(&&*said[8].text), "{}", said[8].text);
        assert!((1..=9).contains(&said[9].text.chars().count()), "{}", said[9].text);
        assert!(said[6].share.is_some_and(|share| share <= 0.0));
    }
    let long =
        ValueForm::OneOf(vec!["an answer that takes far more tokens than there are for it".to_owned()]);
    let asks = vec![ask(&engine, "what?", Manner::Within(engine.constraint(long).unwrap()))];
    let request = CaptionRequest { asks: asks.into(), ..many_asks(&engine, 0) };
    let failed = engine.caption(request).await;
    assert!(matches!(failed, Err(EngineError::Unmet)), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_the_engine_free() {
    let engine = start(Box::new(loaded()), 2, Arc::new(Unobserved)).handle();
    for seed in 20..26 {
        let patience = std::time::Duration::from_millis(seed % 3 * 4);
        let _ = tokio::time::timeout(patience, engine.caption(many_asks(&engine, seed))).await;
    }
    assert_eq!(engine.caption(many_asks(&engine, 1)).await.unwrap().said.len(), 10);
}
