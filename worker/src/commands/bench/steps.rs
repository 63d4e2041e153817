//! Each step on its own: vision, prefill, decode, by batch size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::cost::{prefill_flops, vision_flops};
use captionfleet_model::pack::WeightFormat;
use captionfleet_model::preprocess::{PreparedPicture, SquareImage, pixel_values};
use captionfleet_model::{Adapter, DecodeRow, KvCache, PrefillRow, yardstick};

use super::printer::Printer;
use super::report::{Roofline, Step};
use crate::config::BenchStep;
use crate::engine::EngineOptions;

/// Tokens of the prompt that prefill reads: the picture and a usual question.
const PROMPT: usize = 64;
/// Decode steps in a row.
const DECODE_STEPS: usize = 16;
/// Runs of which the best counts.
const RUNS: usize = 3;
/// A step that has taken so long in all is not run again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// What the device can do at best.
fn roofline(loaded: &LoadedModel) -> anyhow::Result<Roofline> {
    let device = loaded.model.device();
    let format = |part: &str| -> anyhow::Result<WeightFormat> {
        let name = loaded.manifest.weights.get(part).map_or("f32", String::as_str);
        name.parse().map_err(anyhow::Error::msg)
    };
    Ok(Roofline {
        vision_flops_per_second: yardstick::flops_per_second(device, format("vision")?)?,
        language_flops_per_second: yardstick::flops_per_second(device, format("language")?)?,
        bytes_per_second: yardstick::bytes_per_second(device)?,
    })
}

/// The chosen steps at all batch sizes, and what the device can do at best.
pub(super) fn measure(
    loaded: &LoadedModel,
    chosen: &[BenchStep],
    batches: &[usize],
    pictures: &[PreparedPicture],
    adapter_rank: Option<usize>,
    printer: Printer,
) -> anyhow::Result<(Roofline, Vec<Step>)> {
    let best = roofline(loaded)?;
    printer.roofline(best);
    let mut steps = Vec::new();
    let mut done = |step: Step| {
        printer.step(&step);
        steps.push(step);
    };
    let sizes = |step| batches.iter().filter(move |_| chosen.contains(&step)).copied();
    for rows in sizes(BenchStep::Vision) {
        done(vision(loaded, best, rows, pictures)?);
    }
    for rows in sizes(BenchStep::Prefill) {
        done(prefill(loaded, best, rows)?);
    }
    let mut kinds = vec![("decode", vec![None])];
    if let Some(rank) = adapter_rank {
        let drawn = |name: &&str| Ok(Some(Arc::new(Adapter::random(&loaded.model, rank, name)?)));
        let adapters = ["a", "b", "c", "d"].iter().map(drawn).collect::<anyhow::Result<Vec<_>>>()?;
        kinds.push(("adapter", adapters[..1].to_vec()));
        kinds.push(("4+none", [adapters.as_slice(), &[None]].concat()));
    }
    for rows in sizes(BenchStep::Decode) {
        decode(loaded, best, rows, &kinds)?.into_iter().for_each(&mut done);
    }
    Ok((best, steps))
}

fn step(step: &'static str, rows: usize, seconds: f64, seconds_at_best: f64) -> Step {
    Step {
        step,
        rows,
        seconds,
        rows_per_second: rows as f64 / seconds,
        roofline_share: seconds_at_best / seconds,
    }
}

fn vision(
    loaded: &LoadedModel,
    best: Roofline,
    rows: usize,
    pictures: &[PreparedPicture],
) -> anyhow::Result<Step> {
    let model = &loaded.model;
    let chosen: Vec<_> = pictures.iter().cycle().take(rows).collect();
    let pixels = |side: fn(&PreparedPicture) -> &SquareImage| {
        let squares: Vec<_> = chosen.iter().map(|picture| side(picture)).collect();
        pixel_values(&squares, model.device())
    };
    let (for_caption, for_retrieval) = (
        pixels(|picture| &picture.caption)?,
        pixels(|picture| picture.retrieval.as_ref().unwrap_or(&picture.caption))?,
    );
    let seconds = least(loaded, || {
        let features = model.vision_features(&for_caption)?;
        model.image_tokens(&features)?;
        if let Some(head) = model.retrieval() {
            // A picture that the heads see in another size is looked at twice.
            let is_shared = model.shares_vision_pass();
            let seen = if is_shared { features } else { model.retrieval_features(&for_retrieval)? };
            head.image_embeddings(&seen)?;
        }
        Ok(())
    })?;
    let flops = rows as f64 * vision_flops(model.config());
    Ok(step("vision", rows, seconds, flops / best.vision_flops_per_second))
}

fn prefill(loaded: &LoadedModel, best: Roofline, rows: usize) -> anyhow::Result<Step> {
    let prompt = prompt(loaded)?;
    let mut cache = cache(loaded, rows)?;
    let seconds = least(loaded, || read(loaded, &prompt, rows, &[None], &mut cache))?;
    let flops = rows as f64 * prefill_flops(loaded.model.config(), PROMPT);
    Ok(step("prefill", rows, seconds, flops / best.language_flops_per_second))
}

/// The adapters that the sequences of a step use in turn, those of one adapter side by side as the engine arranges them.
type Kind = (&'static str, Vec<Option<Arc<Adapter>>>);

/// Decode steps of each kind, by turns: what else the machine does meets all of them alike.
fn decode(loaded: &LoadedModel, best: Roofline, rows: usize, kinds: &[Kind]) -> anyhow::Result<Vec<Step>> {
    let prompt = prompt(loaded)?;
    let mut caches = Vec::with_capacity(kinds.len());
    for (_, adapters) in kinds {
        let mut cache = cache(loaded, rows)?;
        read(loaded, &prompt, rows, adapters, &mut cache)?;
        caches.push(cache);
    }
    let next: Vec<DecodeRow> = (0..rows).map(|slot| DecodeRow { slot, token: 1 }).collect();
    let mut seconds = vec![f64::INFINITY; kinds.len()];
    for _ in 0..DECODE_STEPS {
        for (cache, seconds) in caches.iter_mut().zip(&mut seconds) {
            let since = Instant::now();
            loaded.model.decode(&next, cache)?;
            loaded.model.device().synchronize()?;
            *seconds = seconds.min(since.elapsed().as_secs_f64());
        }
    }
    // Every weight of the layers and the head is read once for all rows; the table of tokens is not.
    let share = 1.0 - table_share(&loaded.model.config().lm);
    let language =
        loaded.memory.parts().find(|(part, _)| *part == "language model").map_or(0, |(_, bytes)| bytes);
    let by_memory = share * language as f64 / best.bytes_per_second;
    Ok(kinds.iter().zip(seconds).map(|((name, _), seconds)| step(name, rows, seconds, by_memory)).collect())
}

/// The table of tokens as a share of the language model's weights.
fn table_share(lm: &captionfleet_model::PhiConfig) -> f64 {
    let table = (lm.vocab_size * lm.hidden_size) as f64;
    let layer = lm.hidden_size * (4 * lm.hidden_size + 2 * lm.intermediate_size);
    table / (2.0 * table + (lm.num_layers * layer) as f64)
}

fn prompt(loaded: &LoadedModel) -> anyhow::Result<Tensor> {
    Ok(loaded.model.embed_tokens(&[1; PROMPT])?)
}

fn cache(loaded: &LoadedModel, rows: usize) -> anyhow::Result<KvCache> {
    let model = &loaded.model;
    let dtype = EngineOptions::cache_dtype(model.device());
    Ok(KvCache::new(&model.config().lm, rows, PROMPT + DECODE_STEPS, dtype, model.device())?)
}

fn read(
    loaded: &LoadedModel,
    prompt: &Tensor,
    rows: usize,
    adapters: &[Option<Arc<Adapter>>],
    cache: &mut KvCache,
) -> anyhow::Result<()> {
    for slot in 0..rows {
        cache.free(slot);
    }
    let of = |slot: usize| adapters[slot * adapters.len() / rows].clone();
    let rows: Vec<_> =
        (0..rows).map(|slot| PrefillRow { slot, embeds: prompt.clone(), adapter: of(slot) }).collect();
    loaded.model.prefill(&rows, cache)?;
    Ok(())
}

fn least(loaded: &LoadedModel, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (mut least, begun) = (f64::INFINITY, Instant::now());
    for _ in 0..RUNS {
        let since = Instant::now();
        run()?;
        loaded.model.device().synchronize()?;
        least = least.min(since.elapsed().as_secs_f64());
        if begun.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    Ok(least)
}
