//! `worker evaluate`: what the demo model gets right on scenes it has never seen.

use std::process::ExitCode;
use std::sync::Arc;

use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_model::{Adapter, SamplingOptions};
use captionfleet_proto::storage::Stores;
use captionfleet_world::dice::Dice;
use captionfleet_world::export::choose;
use captionfleet_world::questions::questions;
use captionfleet_world::texts::retrieval_text;
use captionfleet_world::{ExportOptions, FileFormat, Scene, Split, Verdict, check_caption, render};
use futures::future::try_join_all;
use half::f16;
use serde::Serialize;

use super::say;
use crate::app::start_engine;
use crate::config::{EvaluateArgs, storage_options};
use crate::engine::{Ask, CaptionRequest, EngineError, EngineHandle, Priority, Unobserved};
use crate::model_choice::ModelChoice;

/// Sides of the drawn pictures.
const PICTURE: (u32, u32) = (320, 256);

#[derive(Serialize)]
struct Evaluation {
    scenes: usize,
    captions_correct: f64,
    questions: usize,
    answers_correct: f64,
    recall_at_1: f64,
    recall_at_5: f64,
}

pub(super) async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::new(storage_options(None, &[]));
    let bundle = ModelChoice::parse(args.model.model.as_deref())?.resolve(&stores).await?;
    let settings = args.model.engine();
    let engine =
        tokio::task::spawn_blocking(move || start_engine(&bundle, settings, Arc::new(Unobserved))).await??;
    let adapter = args.adapter.as_deref().map(|path| engine.handle().open_adapter(path).map(Arc::new));
    let evaluation = evaluate(&engine.handle(), &args, adapter.transpose()?.as_ref()).await?;
    tokio::task::spawn_blocking(move || engine.join()).await??;
    if args.json {
        say(serde_json::to_string_pretty(&evaluation)?);
    } else {
        say(format_args!("{} held-out scenes, seed {}", evaluation.scenes, args.seed));
        say(format_args!("captions correct  {:6.1} %", 100.0 * evaluation.captions_correct));
        say(format_args!(
            "answers correct   {:6.1} %  of {} questions",
            100.0 * evaluation.answers_correct,
            evaluation.questions
        ));
        say(format_args!("recall@1          {:6.1} %", 100.0 * evaluation.recall_at_1));
        say(format_args!("recall@5          {:6.1} %", 100.0 * evaluation.recall_at_5));
    }
    Ok(ExitCode::SUCCESS)
}

async fn evaluate(
    engine: &EngineHandle,
    args: &EvaluateArgs,
    adapter: Option<&Arc<Adapter>>,
) -> anyhow::Result<Evaluation> {
    let request = |picture: &PreparedPicture, prompt: &Arc<str>, embed: bool| CaptionRequest {
        picture: picture.clone(),
        asks: Ask::alone(prompt.clone(), SamplingOptions::default()),
        adapter: adapter.cloned(),
        embed,
        priority: Priority::Bulk,
    };
    let options = ExportOptions {
        count: args.count,
        seed: args.seed,
        split: Split::HeldOut,
        format: FileFormat::Png,
        distinct: true,
        new_share: args.new_share,
    };
    let scenes: Vec<Scene> = choose(&options).into_iter().map(|(_, scene)| scene).collect();
    let pictures: Vec<PreparedPicture> = scenes.iter().map(|scene| draw(scene, engine)).collect();

    let caption_prompt: Arc<str> = engine.info().prompts.caption.as_str().into();
    let captioned =
        try_join_all(pictures.iter().map(|picture| engine.caption(request(picture, &caption_prompt, true))))
            .await?;
    let right = captioned
        .iter()
        .zip(&scenes)
        .filter(|(result, scene)| check_caption(&result.caption, scene) == Verdict::Correct)
        .count();

    let (mut asked, mut answered) = (0, 0);
    for (index, (scene, picture)) in scenes.iter().zip(&pictures).enumerate() {
        let questions = questions(scene, &mut Dice::new(args.seed ^ index as u64));
        let results = try_join_all(questions.iter().map(async |question| {
            let prompt = engine.info().prompts.ask(&question.text).map_err(EngineError::from)?;
            engine.caption(request(picture, &prompt.into(), false)).await
        }))
        .await?;
        asked += questions.len();
        answered += questions
            .iter()
            .zip(&results)
            .filter(|(question, result)| question.accepts(&result.caption))
            .count();
    }

    let embeddings: Vec<&[f16]> = captioned.iter().filter_map(|result| result.embedding.as_deref()).collect();
    let mut ranks = Vec::with_capacity(scenes.len());
    for (index, scene) in scenes.iter().enumerate() {
        let query = engine.embed_text(retrieval_text(scene)).await?;
        ranks.push(rank_of(index, &query, &embeddings));
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    Ok(Evaluation {
        scenes: scenes.len(),
        captions_correct: share(right, scenes.len()),
        questions: asked,
        answers_correct: share(answered, asked),
        recall_at_1: share(ranks.iter().filter(|rank| **rank == 0).count(), ranks.len()),
        recall_at_5: share(ranks.iter().filter(|rank| **rank < 5).count(), ranks.len()),
    })
}

fn draw(scene: &Scene, engine: &EngineHandle) -> PreparedPicture {
    let rgb = render(scene, PICTURE.0, PICTURE.1).into_raw();
    prepare(&Picture { width: PICTURE.0, height: PICTURE.1, rgb }, &engine.info().config)
}

/// How many pictures score higher than the right one; the score is the best of a picture's vectors.
fn rank_of(right: usize, query: &[f32], embeddings: &[&[f16]]) -> usize {
    let score = |embedding: &[f16]| {
        embedding
            .chunks(query.len())
            .map(|vector| vector.iter().zip(query).map(|(a, b)| a.to_f32() * b).sum::<f32>())
            .fold(f32::NEG_INFINITY, f32::max)
    };
    let best = embeddings.get(right).map_or(f32::NEG_INFINITY, |embedding| score(embedding));
    embeddings.iter().filter(|embedding| score(embedding) > best).count()
}
