//! One vision batch and one prefill, to see what they take.

use candle_core::{DType, IndexOp as _, Tensor};
use captionfleet_model::bundle::LoadedModel;
use captionfleet_model::preprocess::{Picture, PreparedPicture, prepare};
use captionfleet_model::{KvCache, PrefillRow, PromptTokens};

use super::{Meter, StepMemory};
use crate::engine::step::{self, Wanted};
use crate::engine::{EngineError, EngineOptions};

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// In use with nothing running.
    pub held: u64,
    /// The largest vision batch that may run, captions and embeddings.
    pub vision: StepMemory,
    /// The largest prefill, of prompts that fill their slots.
    pub prefill: StepMemory,
    /// A picture that is embedded between the layers of another step; 0 without retrieval heads.
    pub query: u64,
}

/// Runs both steps at the sizes that the engine's batches can have, halved until they fit. A few rows of a small model stand
/// for all, and on a CPU a part of a large model's prompt.
///
/// # Errors
/// What the network says, [`EngineError::OutOfMemory`] if one row alone does not fit.
pub fn try_steps(loaded: &LoadedModel, meter: &Meter, options: &EngineOptions) -> Result<Trial, EngineError> {
    let held = meter.used();
    let config = loaded.model.config();
    let limits = options.limits();
    let picture = prepare(&Picture { width: 1, height: 1, rgb: vec![128; 3] }, config);
    let trial = |wished| EngineOptions::trial_rows(config, wished);
    let seen = |rows| {
        let (outcome, bytes) = meter.peak_beyond(held, || look(loaded, &picture, rows));
        outcome.map(|()| StepMemory { rows, bytes })
    };
    let vision = largest(limits.vision_batch, trial, seen)?;
    let query = match loaded.model.retrieval() {
        None => 0,
        // A pass of one picture, as on a CPU, has been seen.
        Some(_) if vision.rows == 1 => vision.bytes,
        Some(_) => seen(1)?.bytes,
    };
    let tokens = EngineOptions::trial_tokens(config, loaded.model.device(), options.max_len);
    let prompt = longest_prompt(loaded, tokens)?;
    let prefill = largest(limits.prefill_batch, trial, |rows| {
        // Activations grow with the tokens.
        let bytes = read(loaded, meter, &prompt, rows)?.div_ceil(tokens as u64) * options.max_len as u64;
        Ok(StepMemory { rows, bytes })
    })?;
    Ok(Trial { held, vision, prefill, query })
}

/// What a step of `wished` rows takes, told from as many as `trial` says; if those do not fit, the largest that does: half of
/// them, or half of that, and so on.
fn largest(
    wished: usize,
    trial: impl Fn(usize) -> usize,
    mut run: impl FnMut(usize) -> Result<StepMemory, EngineError>,
) -> Result<StepMemory, EngineError> {
    let tried = trial(wished).max(1);
    let mut rows = tried;
    loop {
        match run(rows) {
            Err(EngineError::OutOfMemory(_)) if rows > 1 => rows /= 2,
            Ok(seen) if rows == tried => return Ok(seen.with_rows(wished.max(1))),
            outcome => return outcome,
        }
    }
}

fn look(loaded: &LoadedModel, picture: &PreparedPicture, rows: usize) -> Result<(), EngineError> {
    let embed = loaded.model.retrieval().is_some();
    let rows = vec![Wanted { picture, caption: true, embed, adapter: None, text: None }; rows];
    step::vision(loaded, &rows, &mut || {}).map(drop)
}

/// The caption prompt, over and over, up to so many tokens.
fn longest_prompt(loaded: &LoadedModel, tokens: usize) -> Result<Tensor, EngineError> {
    let prompt = PromptTokens::new(&loaded.tokenizer, &loaded.prompts.caption)?;
    let config = loaded.model.config();
    // What a picture looks like makes no difference to what its prompt takes.
    let picture = (config.qformer.num_query_tokens, config.lm.hidden_size);
    let image_tokens = Tensor::zeros(picture, DType::F32, loaded.model.device())?;
    let once = loaded.model.embed_prompt(&prompt, &image_tokens)?;
    let times = tokens.div_ceil(once.dim(0)?.max(1));
    Ok(once.repeat((times, 1))?.i(..tokens)?.contiguous()?)
}

/// What a prefill of so many rows takes, beside the slots that it fills.
fn read(loaded: &LoadedModel, meter: &Meter, prompt: &Tensor, rows: usize) -> Result<u64, EngineError> {
    let model = &loaded.model;
    let dtype = EngineOptions::cache_dtype(model.device());
    let mut cache = KvCache::new(&model.config().lm, rows, prompt.dim(0)?, dtype, model.device())?;
    let rows: Vec<_> = (0..rows).map(|slot| PrefillRow::plain(slot, prompt.clone())).collect();
    let run = || step::prefill(loaded, &rows, &mut cache, &mut || {})?.rows();
    let (outcome, bytes) = meter.peak_beyond(meter.used(), run);
    outcome.map(|_| bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;
    use crate::demo_model;

    #[test]
    fn no_more_rows_are_tried_than_ever_run() {
        let loaded = demo_model::bundle().unwrap().load(&Device::Cpu).unwrap();
        let options = EngineOptions::for_model(loaded.model.config(), &Device::Cpu);
        let trial = try_steps(&loaded, &Meter::new(&Device::Cpu), &options).unwrap();
        assert_eq!((trial.vision.rows, trial.prefill.rows), (1, 1));
        let wide = EngineOptions { vision_batch: 6, prefill_batch: 5, pass: usize::MAX, ..options };
        let trial = try_steps(&loaded, &Meter::new(&Device::Cpu), &wide).unwrap();
        assert_eq!(
            (trial.vision.rows, trial.prefill.rows),
            (6, 5),
            "the batches wished for are not those tried"
        );
    }

    #[test]
    fn prompts_that_fill_their_slots_are_measured() {
        let loaded = demo_model::bundle().unwrap().load(&Device::Cpu).unwrap();
        for tokens in [3, 2000] {
            let prompt = longest_prompt(&loaded, tokens).unwrap();
            assert_eq!(prompt.dims(), [tokens, loaded.model.config().lm.hidden_size]);
            read(&loaded, &Meter::new(&Device::Cpu), &prompt, 2).unwrap();
        }
    }

    #[test]
    fn a_query_between_layers_is_measured() {
        let loaded = demo_model::bundle().unwrap().load(&Device::Cpu).unwrap();
        let options = EngineOptions::for_model(loaded.model.config(), &Device::Cpu);
        let trial = try_steps(&loaded, &Meter::new(&Device::Cpu), &options).unwrap();
        assert_eq!(trial.query, trial.vision.bytes, "one picture is a whole pass");
    }

    /// A device on which `most` rows fit, of 10 bytes each.
    fn on(most: usize, wished: usize, trial: usize) -> (StepMemory, Vec<usize>) {
        let mut tried = Vec::new();
        let step = largest(
            wished,
            |_| trial,
            |rows| {
                tried.push(rows);
                if rows > most {
                    return Err(EngineError::OutOfMemory("full".to_owned()));
                }
                Ok(StepMemory { rows, bytes: 10 * rows as u64 })
            },
        );
        (step.unwrap(), tried)
    }

    #[test]
    fn a_few_rows_stand_for_all_unless_they_do_not_fit() {
        assert_eq!(on(99, 16, 2), (StepMemory { rows: 16, bytes: 160 }, vec![2]));
        assert_eq!(on(1, 16, 2), (StepMemory { rows: 1, bytes: 10 }, vec![2, 1]));
        assert_eq!(on(3, 8, 8), (StepMemory { rows: 2, bytes: 20 }, vec![8, 4, 2]));
    }
}
