//! The traced runs of a caption stage.
use candle_core::{DType, Tensor};

use super::{
    TraceError,
    settings::{CaptionSettings, Score},
    tensors::Below,
};
use crate::{
    CaptionTokenizer, KvCache, PrefillRow, PromptTokens, SamplingOptions, TinyGptV,
    beam::{self, BeamOptions},
    generate::{GenerateOptions, generate},
    probe::Point,
    score::{embed_answer, score},
};

/// In a conversation the reference also stops at this id, whatever it means to the tokenizer.
const DEMO_STOP: u32 = 2;

pub(super) fn trace(
    model: &TinyGptV,
    tokenizer: &CaptionTokenizer,
    settings: &CaptionSettings,
    pixels: &[Tensor],
    out: &mut Below,
) -> Result<(), TraceError> {
    let image_tokens = pixels
        .iter()
        .enumerate()
        .map(|(index, pixels)| trace_picture(model, pixels, &mut out.below(format!("img{index}"))))
        .collect::<Result<Vec<_>, _>>()?;
    Runs { model, tokenizer, settings, image_tokens: &image_tokens }.trace(out)
}

/// Image tokens `(Q, H)` of one picture.
fn trace_picture(model: &TinyGptV, pixels: &Tensor, out: &mut Below) -> Result<Tensor, TraceError> {
    let config = model.config();
    let mut seen = Vec::new();
    let mut watch = |point, tensor: &Tensor| seen.push((point, tensor.clone()));
    let features = model.vision_features_watched(pixels, &mut watch)?;
    let image_tokens = model.image_tokens_watched(&features, &mut watch)?.squeeze(0)?;
    for (point, tensor) in seen {
        let tensor = tensor.squeeze(0)?;
        match point {
            Point::VisionInput => out.put("vit_in", tensor)?,
            Point::VisionBlock(index) => out.put(&format!("vit_block{index}"), tensor)?,
            Point::VisionNorm => out.put("ln_vision", tensor)?,
            Point::QFormerLayer(index) => {
                if index + 1 == config.qformer.num_layers {
                    out.put("qformer_out", tensor.clone())?;
                }
                out.put(&format!("qformer_layer{index}"), tensor)?;
            }
            Point::Projection => out.put("proj1", tensor)?,
            Point::LanguageLayer(_) | Point::LanguageNorm => {}
        }
    }
    out.put("vit_out", features.squeeze(0)?)?;
    out.put("image_tokens", image_tokens.clone())?;
    Ok(image_tokens)
}

struct Runs<'a> {
    model: &'a TinyGptV,
    tokenizer: &'a CaptionTokenizer,
    settings: &'a CaptionSettings,
    image_tokens: &'a [Tensor],
}

impl Runs<'_> {
    fn trace(&self, out: &mut Below) -> Result<(), TraceError> {
        let settings = self.settings;
        for (index, prompt) in settings.single.iter().enumerate() {
            let mut out = out.below(format!("single{index}"));
            let embeds = self.trace_prompt(prompt, index, &mut out)?;
            out.row("greedy_ids", generate(self.model, &[embeds], &self.evaluation())?)?;
        }

        if !settings.batch.is_empty() {
            self.trace_batches(out)?;
        }
        if let Some(repetition) = &settings.repetition {
            // The run repeats one of the single runs, with its picture.
            let picture = settings.single.iter().position(|prompt| *prompt == repetition.prompt);
            let embeds = self.embed(&repetition.prompt, picture.unwrap_or(0))?;
            let mut options = self.evaluation();
            options.sampling.repetition_penalty = repetition.penalty;
            out.below("rep_penalty").row("greedy_ids", generate(self.model, &[embeds], &options)?)?;
        }

        for (turn, demo) in settings.demo.iter().enumerate() {
            let mut out = out.below(format!("demo{turn}"));
            let embeds = self.trace_prompt(&demo.prompt, 0, &mut out)?;
            let stop_sequence = || self.tokenizer.stop_sequence().unwrap_or(self.tokenizer.end_of_text());
            let end = demo.end.unwrap_or_else(stop_sequence);
            let mut options = GenerateOptions { end, pad: end, stop: vec![DEMO_STOP], ..self.evaluation() };
            options.sampling.repetition_penalty = demo.penalty;
            options.sampling.max_new_tokens = demo.max_new_tokens;
            out.row("out_ids", generate(self.model, &[embeds], &options)?)?;
        }

        for (name, beams) in &settings.beams {
            let options = BeamOptions {
                beams: beams.width,
                max_new_tokens: beams.max_new_tokens,
                length_penalty: beams.length_penalty,
                begin: settings.begin,
                end: settings.end,
                pad: settings.end,
                valid_vocab: self.tokenizer.vocab_len(),
            };
            let rows = beam::search(self.model, &self.embed_all(&beams.prompts)?, &options)?;
            out.below(name).id_rows("out_ids", &rows)?;
        }

        if let Some(score) = &settings.score {
            self.trace_score(score, &mut out.below("score"))?;
        }
        let mut out = out.below("text_only");
        let ids = self.tokenizer.encode(&settings.text_only)?;
        out.ids("input_ids", &ids, &[ids.len()])?;
        self.trace_row(&self.model.embed_tokens(&ids)?, &mut out)
    }

    /// Traces the prompts read and continued together, with the usual end and with another.
    fn trace_batches(&self, out: &mut Below) -> Result<(), TraceError> {
        let batch = self.embed_all(&self.settings.batch)?;
        self.trace_batch(&batch, &mut out.below("batch"))?;
        out.below("batch").id_rows("greedy_ids", &generate(self.model, &batch, &self.evaluation())?)?;
        if let Some(end) = &self.settings.batch_end {
            let options =
                GenerateOptions { end: end.end, pad: end.pad.unwrap_or(end.end), ..self.evaluation() };
            out.below("batch_eos").id_rows("greedy_ids", &generate(self.model, &batch, &options)?)?;
        }
        Ok(())
    }

    /// Traces the answers' scores and, for each, the language model's input and output.
    fn trace_score(&self, settings: &Score, out: &mut Below) -> Result<(), TraceError> {
        let prompt = PromptTokens::new(self.tokenizer, &settings.instruction)?;
        let image_tokens = self.image_tokens(0)?;
        let answers = settings
            .candidates
            .iter()
            .map(|answer| self.tokenizer.encode(&format!("{answer}{}", settings.end_sym)))
            .collect::<Result<Vec<_>, _>>()?;
        let begin = self.settings.begin;
        out.numbers("losses", &score(self.model, image_tokens, &prompt, begin, &answers)?)?;
        for (index, answer) in answers.iter().enumerate() {
            let embeds = embed_answer(self.model, image_tokens, &prompt, begin, answer)?;
            self.trace_row(&embeds, &mut out.beginning(format!("cand{index}_")))?;
        }
        Ok(())
    }

    /// Embeds a prompt with its picture; traces its pieces and the prefill.
    fn trace_prompt(&self, prompt: &str, picture: usize, out: &mut Below) -> Result<Tensor, TraceError> {
        let tokens = PromptTokens::new(self.tokenizer, prompt)?;
        out.ids("seg0_ids", &tokens.before, &[tokens.before.len()])?;
        out.ids("seg1_ids", &tokens.after, &[tokens.after.len()])?;
        let embeds = self.model.embed_prompt(&tokens, self.image_tokens(picture)?)?;
        self.trace_row(&embeds, out)?;
        Ok(embeds)
    }

    /// Traces the prefill of one row, all positions.
    fn trace_row(&self, embeds: &Tensor, out: &mut Below) -> Result<(), TraceError> {
        let tokens = embeds.dim(0)?;
        out.ids("lm_attention_mask", &vec![1u32; tokens], &[tokens])?;
        out.ids("lm_position_ids", &(0..tokens as u32).collect::<Vec<_>>(), &[tokens])?;
        out.put("lm_inputs_embeds", embeds.clone())?;
        for (name, tensor) in self.prefill(std::slice::from_ref(embeds))? {
            out.put(&name, tensor)?;
        }
        Ok(())
    }

    /// Traces the prefill of several rows in the reference's layout: padded on the left with
    /// nothing, mask 0 and position 1.
    fn trace_batch(&self, batch: &[Tensor], out: &mut Below) -> Result<(), TraceError> {
        let lengths = batch.iter().map(|row| row.dim(0)).collect::<candle_core::Result<Vec<_>>>()?;
        let width = lengths.iter().copied().max().unwrap_or(0);
        let (mut mask, mut positions) = (Vec::new(), Vec::new());
        for &length in &lengths {
            let padding = width - length;
            mask.extend((0..width).map(|i| u32::from(i >= padding)));
            positions.extend((0..width).map(|i| if i < padding { 1 } else { (i - padding) as u32 }));
        }
        let shape = [lengths.len(), width];
        out.ids("lm_attention_mask", &mask, &shape)?;
        out.ids("lm_position_ids", &positions, &shape)?;
        out.put("lm_inputs_embeds", left_padded(&Tensor::cat(batch, 0)?, &lengths, width)?)?;
        for (name, tensor) in self.prefill(batch)? {
            out.put(&name, left_padded(&tensor, &lengths, width)?)?;
        }
        Ok(())
    }

    /// What the language model shows while it reads rows together, by name; one row behind the
    /// other.
    fn prefill(&self, rows: &[Tensor]) -> Result<Vec<(String, Tensor)>, TraceError> {
        let longest = rows.iter().map(|row| row.dims()[0]).max().unwrap_or(0);
        let cache = KvCache::for_prefill(self.model, rows.len(), longest)?;
        let rows: Vec<PrefillRow> =
            rows.iter().enumerate().map(|(slot, embeds)| PrefillRow::plain(slot, embeds.clone())).collect();
        let mut seen = Vec::new();
        let (normed, _) = self.model.hidden(&rows, &cache, &mut |point, tensor| match point {
            Point::LanguageLayer(index) => seen.push((format!("lm_hidden{index}"), tensor.clone())),
            Point::LanguageNorm => seen.push(("lm_final_norm".to_owned(), tensor.clone())),
            _ => {}
        })?;
        seen.push(("lm_logits".to_owned(), self.model.logits(&normed)?));
        Ok(seen)
    }

    fn embed_all(&self, prompts: &[String]) -> Result<Vec<Tensor>, TraceError> {
        prompts.iter().enumerate().map(|(picture, prompt)| self.embed(prompt, picture)).collect()
    }

    fn embed(&self, prompt: &str, picture: usize) -> Result<Tensor, TraceError> {
        let tokens = PromptTokens::new(self.tokenizer, prompt)?;
        Ok(self.model.embed_prompt(&tokens, self.image_tokens(picture)?)?)
    }

    /// Prompts beyond the last picture begin with the first again.
    fn image_tokens(&self, picture: usize) -> Result<&Tensor, TraceError> {
        self.image_tokens
            .get(picture % self.image_tokens.len().max(1))
            .ok_or_else(|| TraceError::Inconsistent("a prompt needs a picture; there is none".to_owned()))
    }

    /// Greedy, as the reference's evaluation generates.
    fn evaluation(&self) -> GenerateOptions {
        let sampling =
            SamplingOptions { max_new_tokens: self.settings.max_new_tokens, ..SamplingOptions::default() };
        GenerateOptions {
            sampling,
            begin: self.settings.begin,
            end: self.settings.end,
            pad: self.settings.end,
            stop: Vec::new(),
            valid_vocab: self.tokenizer.vocab_len(),
        }
    }
}

/// Rows `(T, …)` one behind the other as `(rows, width, …)`, zeros in front of short ones.
fn left_padded(stream: &Tensor, lengths: &[usize], width: usize) -> candle_core::Result<Tensor> {
    let depth = stream.dim(1)?;
    let mut start = 0;
    let rows = lengths
        .iter()
        .map(|&length| {
            let row = stream.narrow(0, start, length)?;
            start += length;
            let padding = Tensor::zeros((width - length, depth), DType::F32, stream.device())?;
            Tensor::cat(&[padding, row], 0)
        })
        .collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::stack(&rows, 0)
}
