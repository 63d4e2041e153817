//! One vision batch and one prefill, to see what they take.

use candle_core::{DType, Tensor};
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
    /// One vision batch, captions and embeddings.
    pub vision: StepMemory,
    /// One prefill of the caption prompt.
    pub prefill: StepMemory,
}

/// Runs both steps at the sizes wished for, halved until they fit.
///
/// # Errors
/// What the network says, [`EngineError::OutOfMemory`] if one row alone does not fit.
pub fn try_steps(loaded: &LoadedModel, meter: &Meter, options: &EngineOptions) -> Result<Trial, EngineError> {
    let held = meter.used();
    let config = loaded.model.config();
    let picture = prepare(&Picture { width: 1, height: 1, rgb: vec![128; 3] }, config);
    let vision = halving(EngineOptions::trial_rows(config, options.vision_batch), |rows| {
        let (outcome, bytes) = meter.peak_beyond(held, || look(loaded, &picture, rows));
        outcome.map(|()| StepMemory { rows, bytes })
    })?;
    let prefill = halving(EngineOptions::trial_rows(config, options.prefill_batch), |rows| {
        // The cache of the trial is not what is to be measured; it is small beside the activations.
        let (outcome, bytes) = meter.peak_beyond(held, || read(loaded, rows));
        outcome.map(|()| StepMemory { rows, bytes })
    })?;
    Ok(Trial { held, vision, prefill })
}

/// Tries `rows`, then half of them, and so on, while memory runs out.
fn halving<T>(rows: usize, mut run: impl FnMut(usize) -> Result<T, EngineError>) -> Result<T, EngineError> {
    let mut rows = rows.max(1);
    loop {
        match run(rows) {
            Err(EngineError::OutOfMemory(_)) if rows > 1 => rows /= 2,
            outcome => return outcome,
        }
    }
}

fn look(loaded: &LoadedModel, picture: &PreparedPicture, rows: usize) -> Result<(), EngineError> {
    let embed = loaded.model.retrieval().is_some();
    let rows = vec![Wanted { picture, caption: true, embed, adapter: None, text: None }; rows];
    step::vision(loaded, &rows, &mut || {}).map(drop)
}

fn read(loaded: &LoadedModel, rows: usize) -> Result<(), EngineError> {
    let prompt = PromptTokens::new(&loaded.tokenizer, &loaded.prompts.caption)?;
    let model = &loaded.model;
    let config = model.config();
    // What a picture looks like makes no difference to what its prompt takes.
    let picture = (config.qformer.num_query_tokens, config.lm.hidden_size);
    let image_tokens = Tensor::zeros(picture, DType::F32, model.device())?;
    let embeds = model.embed_prompt(&prompt, &image_tokens)?;
    let tokens = embeds.dims().first().copied().unwrap_or(0);
    let dtype = EngineOptions::cache_dtype(model.device());
    let mut cache = KvCache::new(&config.lm, rows, tokens, dtype, model.device())?;
    let rows: Vec<_> = (0..rows).map(|slot| PrefillRow::plain(slot, embeds.clone())).collect();
    step::prefill(loaded, &rows, &mut cache, &mut || {}).map(drop)
}
