//! `worker evaluate`: what the demo model gets right on scenes it has never seen.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captionfleet_model::bundle::Bundle;
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
    /// Of one query's embedding, alone.
    embedding_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reranked: Option<Reranked>,
}

/// What it comes to when the model judges the best of each search again.
#[derive(Serialize)]
struct Reranked {
    /// Pictures judged for each search.
    best: usize,
    recall_at_1: f64,
    /// Of one search, its pictures being decoded already.
    milliseconds: f64,
}

pub(super) async fn run(args: EvaluateArgs) -> anyhow::Result<ExitCode> {
    let stores = Stores::new(storage_options(None, &[]));
    let found = ModelChoice::parse(args.model.model.as_deref())?.resolve(&stores).await?;
    let settings = args.model.engine();
    let start = move |bundle: &Bundle| start_engine(bundle, settings, Arc::new(Unobserved));
    let engine = found.load(&stores, start).await?;
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
        say(format_args!("embedding a query {:6.2} ms", evaluation.embedding_ms));
        if let Some(Reranked { best, recall_at_1, milliseconds }) = evaluation.reranked {
            say(format_args!(
                "recall@1          {:6.1} %  with the best {best} judged again, {milliseconds:.1} ms a search",
                100.0 * recall_at_1
            ));
        }
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
    let best = args.rerank.map(usize::from);
    let (mut ranks, mut first) = (Vec::with_capacity(scenes.len()), 0);
    let (mut embedding, mut judging) = (Duration::ZERO, Duration::ZERO);
    for (index, scene) in scenes.iter().enumerate() {
        let text = retrieval_text(scene);
        let since = Instant::now();
        let query = engine.embed_text(text.clone()).await?;
        embedding += since.elapsed();
        let scores: Vec<f32> = embeddings.iter().map(|embedding| score(&query, embedding)).collect();
        ranks.push(rank_of(index, &scores));
        let Some(best) = best else { continue };
        let since = Instant::now();
        first += usize::from(judged_first(engine, &text, &scores, best, &pictures).await? == Some(index));
        judging += since.elapsed();
    }
    let milliseconds = |all: Duration| 1e3 * all.as_secs_f64() / scenes.len().max(1) as f64;
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    Ok(Evaluation {
        scenes: scenes.len(),
        captions_correct: share(right, scenes.len()),
        questions: asked,
        answers_correct: share(answered, asked),
        recall_at_1: share(ranks.iter().filter(|rank| **rank == 0).count(), ranks.len()),
        recall_at_5: share(ranks.iter().filter(|rank| **rank < 5).count(), ranks.len()),
        embedding_ms: milliseconds(embedding),
        reranked: best.map(|best| Reranked {
            best,
            recall_at_1: share(first, ranks.len()),
            milliseconds: milliseconds(judging),
        }),
    })
}

/// The picture that the matching head puts first among the `best` by their scores.
async fn judged_first(
    engine: &EngineHandle,
    text: &str,
    scores: &[f32],
    best: usize,
    pictures: &[PreparedPicture],
) -> anyhow::Result<Option<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|one, other| scores[*other].total_cmp(&scores[*one]));
    order.truncate(best);
    let text = engine.match_text(text)?;
    let judged = order.iter().map(|place| engine.match_picture(pictures[*place].clone(), &text));
    let odds = try_join_all(judged).await?;
    Ok(odds.iter().zip(order).max_by(|one, other| one.0.total_cmp(other.0)).map(|(_, place)| place))
}

fn draw(scene: &Scene, engine: &EngineHandle) -> PreparedPicture {
    let rgb = render(scene, PICTURE.0, PICTURE.1).into_raw();
    prepare(&Picture { width: PICTURE.0, height: PICTURE.1, rgb }, &engine.info().config)
}

/// The best product of a query with any of a picture's vectors.
fn score(query: &[f32], embedding: &[f16]) -> f32 {
    embedding
        .chunks(query.len())
        .map(|vector| vector.iter().zip(query).map(|(a, b)| a.to_f32() * b).sum::<f32>())
        .fold(f32::NEG_INFINITY, f32::max)
}

/// How many pictures score higher than the right one.
fn rank_of(right: usize, scores: &[f32]) -> usize {
    let best = scores.get(right).copied().unwrap_or(f32::NEG_INFINITY);
    scores.iter().filter(|score| **score > best).count()
}
