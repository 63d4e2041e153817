//! The whole network: picture and prompt in, logits out.
use std::sync::Arc;

use candle_core::{DType, Device, Module, Tensor};
use captionfleet_kernels::Rows;

use crate::{
    Adapter, DegenerateLogits, KvCache, ModelConfig, ModelError, PromptTokens, RetrievalHead, Sampled,
    Weights,
    adapter::Shares,
    error::DuringStep,
    kv_cache::{FixedRows, Span, pieces},
    norm::LayerNorm,
    phi::{Phi, filled_up},
    probe::{Pause, Point, Probe, unwatched},
    projector::Projector,
    qformer::QFormer,
    vision::VisionTower,
};

/// The step between vision tower and language model, for messages.
const PROJECTING: &str = "the Q-Former and the projections";

/// One sequence's first step.
#[derive(Clone, Debug)]
pub struct PrefillRow {
    /// Its seat in the cache.
    pub slot: usize,
    /// Its prompt as embeddings `(tokens, hidden)`, from [`TinyGptV::embed_prompt`].
    pub embeds: Tensor,
    /// With what it is read; the slot's later steps go on with the same.
    pub adapter: Option<Arc<Adapter>>,
}

impl PrefillRow {
    /// A sequence of the model as it is.
    pub fn plain(slot: usize, embeds: Tensor) -> Self {
        Self { slot, embeds, adapter: None }
    }
}

/// One sequence's next step.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRow {
    /// Its seat in the cache.
    pub slot: usize,
    /// The token it said last.
    pub token: u32,
}

/// TinyGPT-V with its retrieval heads, if it has any.
///
/// Weights are immutable; what changes from step to step lives in the caller's [`KvCache`].
#[derive(Debug)]
pub struct TinyGptV {
    vision: VisionTower,
    vision_norm: LayerNorm,
    queries: Tensor,
    qformer: QFormer,
    projector: Projector,
    language: Phi,
    retrieval: Option<RetrievalHead>,
    config: ModelConfig,
}

impl TinyGptV {
    /// Builds the network from canonical tensors; refuses a missing or misshaped one by name.
    pub fn load(weights: &Weights, config: &ModelConfig) -> Result<Self, ModelError> {
        config.validate()?;
        let (vision, qformer) = (&config.vision, &config.qformer);
        let mut image_sizes = vec![config.image_size];
        image_sizes.extend(config.retrieval.iter().filter(|r| r.shared_vision).map(|r| r.image_size));
        let queries = (1, qformer.num_query_tokens, qformer.hidden_size);
        let bert = weights.pp("Qformer.bert");
        Ok(Self {
            vision: VisionTower::load(&weights.pp("visual_encoder"), vision, &image_sizes)?,
            vision_norm: LayerNorm::load(&weights.pp("ln_vision"), vision.embed_dim, vision.ln_vision_eps)?,
            queries: weights.tensor(queries, "query_tokens")?,
            qformer: QFormer::load(&bert, qformer, vision.embed_dim, None)?,
            projector: Projector::load(weights, config)?,
            language: Phi::load(&weights.pp("llama_model"), &config.lm)?,
            retrieval: config
                .retrieval
                .as_ref()
                .map(|retrieval| RetrievalHead::load(&weights.pp("itc"), retrieval, vision))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// The dimensions it was built with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        self.queries.device()
    }

    /// The retrieval heads.
    pub fn retrieval(&self) -> Option<&RetrievalHead> {
        self.retrieval.as_ref()
    }

    /// Output of the vision tower `(B, N, D)` for pixels `(B, 3, S, S)` of the caption path's
    /// size, before any final norm.
    pub fn vision_features(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        self.vision_features_watched(pixels, &mut unwatched)
    }

    /// As [`TinyGptV::vision_features`], with a pause after every block.
    pub fn vision_features_pausing(&self, pixels: &Tensor, pause: Pause) -> Result<Tensor, ModelError> {
        self.vision_features_watched(pixels, &mut |_, _| pause())
    }

    /// Output of the vision tower that the retrieval heads read, for pixels `(B, 3, S, S)` of
    /// their size. Where [`TinyGptV::shares_vision_pass`], it is what
    /// [`TinyGptV::vision_features`] gives.
    pub fn retrieval_features(&self, pixels: &Tensor) -> Result<Tensor, ModelError> {
        self.retrieval_features_pausing(pixels, &mut || {})
    }

    /// As [`TinyGptV::retrieval_features`], with a pause after every block.
    pub fn retrieval_features_pausing(&self, pixels: &Tensor, pause: Pause) -> Result<Tensor, ModelError> {
        let retrieval = self.retrieval.as_ref().ok_or(ModelError::NoRetrieval)?;
        retrieval
            .vision()
            .unwrap_or(&self.vision)
            .forward(pixels, &mut |_, _| pause())
            .during("the vision tower of the retrieval heads")
    }

    /// Whether one pass through the vision tower serves captions and retrieval.
    pub fn shares_vision_pass(&self) -> bool {
        self.config.shares_vision_pass()
    }

    /// Image tokens `(B, Q, H)` for the language model from vision features `(B, N, D)`.
    pub fn image_tokens(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        self.image_tokens_watched(features, &mut unwatched)
    }

    /// As [`TinyGptV::image_tokens`], each picture through the Q-Former and the projections as its adapter has them; with a
    /// pause after every layer.
    pub fn image_tokens_with(
        &self,
        features: &Tensor,
        adapters: &[Option<Arc<Adapter>>],
        pause: Pause,
    ) -> Result<Tensor, ModelError> {
        let shares = Shares::of(adapters.iter().map(|adapter| (1, adapter.as_deref())));
        let project =
            |queries: &Tensor| shares.through(&self.projector, queries, |adapter| adapter.projector.as_ref());
        self.queries(features, &shares, &mut |_, _| pause())
            .and_then(|queries| project(&queries))
            .during(PROJECTING)
    }

    /// The prompt `(T, H)` with one picture's image tokens `(Q, H)` in its place.
    pub fn embed_prompt(&self, prompt: &PromptTokens, image_tokens: &Tensor) -> Result<Tensor, ModelError> {
        let mut parts = Vec::with_capacity(3);
        if !prompt.before.is_empty() {
            parts.push(self.embed_tokens(&prompt.before)?);
        }
        parts.push(image_tokens.clone());
        if !prompt.after.is_empty() {
            parts.push(self.embed_tokens(&prompt.after)?);
        }
        Tensor::cat(&parts, 0).during("joining of the prompt")
    }

    /// Embeddings `(T, H)` of plain tokens.
    pub fn embed_tokens(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        self.check_tokens(ids.iter().copied())?;
        Tensor::new(ids, self.device())
            .and_then(|ids| self.language.embed(&ids))
            .during("embedding of tokens")
    }

    /// Appends each row's embeddings to its slot; logits `(rows, vocab)` of each row's last
    /// position. Rows may have any lengths; a slot appears at most once.
    ///
    /// After a failure the cache is as it was before the call.
    pub fn prefill(&self, rows: &[PrefillRow], cache: &mut KvCache) -> Result<Tensor, ModelError> {
        self.prefill_pausing(rows, cache, &mut || {})
    }

    /// As [`TinyGptV::prefill`], with a pause after every layer.
    pub fn prefill_pausing(
        &self,
        rows: &[PrefillRow],
        cache: &mut KvCache,
        pause: Pause,
    ) -> Result<Tensor, ModelError> {
        let (normed, spans) = self.hidden(rows, cache, &mut |_, _| pause())?;
        let last = last_rows(&normed, &spans).during("the choice of last rows")?;
        let logits = self.logits_in(cache, &last)?;
        count(rows, &spans, cache);
        Ok(logits)
    }

    /// Appends one token to each row's slot; logits `(rows, vocab)`. A slot must hold its prompt
    /// already and appears at most once.
    ///
    /// After a failure the cache is as it was before the call.
    pub fn decode(&self, rows: &[DecodeRow], cache: &mut KvCache) -> Result<Tensor, ModelError> {
        let spans = cache.plan(rows.iter().map(|row| (row.slot, 1)))?;
        if let Some(span) = spans.iter().find(|span| span.held == 0) {
            return Err(ModelError::Slot { slot: span.slot, reason: "it holds no prompt to go on from" });
        }
        if let Some(logits) = self.decode_recorded(rows, &spans, cache)? {
            cache.commit(&spans);
            return Ok(logits);
        }
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let stream = self.embed_tokens(&tokens)?;
        let adapters: Vec<_> = rows.iter().map(|row| cache.adapter(row.slot)).collect();
        let shares = Shares::of(adapters.iter().map(|adapter| (1, adapter.as_deref())));
        let normed = self.forward(&stream, Rows::Few, &spans, &shares, cache, &mut unwatched)?;
        let logits = self.logits_in(cache, &normed)?;
        cache.commit(&spans);
        Ok(logits)
    }

    /// The likeliest of the first `valid` tokens of each row of logits `(rows, vocab)`, if the device finds them itself: then a
    /// number or two of each row leave it instead of a vocabulary.
    pub fn likeliest(
        &self,
        logits: &Tensor,
        valid: usize,
    ) -> Result<Option<Vec<Result<Sampled, DegenerateLogits>>>, ModelError> {
        let found = (self.language.likeliest(logits, valid))
            .and_then(|found| found.map(|rows| rows.to_vec2::<f32>()).transpose());
        let sampled = |row: Vec<f32>| match row[..] {
            [token, logprob] if logprob.is_finite() => Ok(Sampled { token: token as u32, logprob }),
            _ => Err(DegenerateLogits),
        };
        Ok(found.during("the choice of tokens")?.map(|rows| rows.into_iter().map(sampled).collect()))
    }

    /// A decode step as it was recorded, on a GPU where that can be done.
    fn decode_recorded(
        &self,
        rows: &[DecodeRow],
        spans: &[Span],
        cache: &mut KvCache,
    ) -> Result<Option<Tensor>, ModelError> {
        let has_adapter = rows.iter().any(|row| cache.adapter(row.slot).is_some());
        if has_adapter || !self.language.can_be_recorded(cache) {
            return Ok(None);
        }
        // Before one is looked up on the device.
        self.check_tokens(rows.iter().map(|row| row.token))?;
        let mut inputs: Vec<[u32; 3]> = rows
            .iter()
            .zip(spans)
            .map(|(row, span)| [row.token, span.slot as u32, span.held as u32])
            .collect();
        // A row that belongs to nobody: no cache has its slot.
        let filling = [0, u32::MAX, 0];
        if let Some(fixed) = cache.fixed_rows() {
            inputs.resize(fixed.sequences.max(rows.len()), filling);
        }
        let mut recordings = cache.take_recordings();
        let step = |inputs: &Tensor| self.language.decode_on_device(inputs, cache);
        let logits = recordings.run(self.device(), &inputs, filling, step);
        cache.put_recordings(recordings);
        logits
            .and_then(|logits| logits.map(|logits| logits.narrow(0, 0, rows.len())).transpose())
            .during("the language model")
    }

    fn check_tokens(&self, ids: impl IntoIterator<Item = u32>) -> Result<(), ModelError> {
        let vocabulary = self.config.lm.vocab_size;
        match ids.into_iter().find(|&id| id as usize >= vocabulary) {
            Some(id) => Err(ModelError::UnknownToken { id, vocabulary }),
            None => Ok(()),
        }
    }

    pub(crate) fn vision_features_watched(
        &self,
        pixels: &Tensor,
        probe: Probe,
    ) -> Result<Tensor, ModelError> {
        self.vision.forward(pixels, probe).during("the vision tower")
    }

    pub(crate) fn image_tokens_watched(&self, features: &Tensor, probe: Probe) -> Result<Tensor, ModelError> {
        self.queries(features, &Shares::default(), probe)
            .and_then(|queries| self.projector.watched(&queries, probe))
            .during(PROJECTING)
    }

    /// Output of the Q-Former `(B, Q, W)`.
    fn queries(&self, features: &Tensor, shares: &Shares<'_>, probe: Probe) -> candle_core::Result<Tensor> {
        let normed = self.vision_norm.forward(features)?;
        probe(Point::VisionNorm, &normed);
        self.qformer.queries(&self.queries, &normed, shares, probe)
    }

    pub(crate) fn language(&self) -> &Phi {
        &self.language
    }

    /// Output of the Q-Former `(B, Q, W)` for vision features `(B, N, D)`, before any projection.
    pub(crate) fn queries_of(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        self.queries(features, &Shares::default(), &mut unwatched).during("the Q-Former")
    }

    /// What the Q-Former looks at, `(B, N, D)` in f16, which takes half the memory.
    pub(crate) fn normed(&self, features: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.vision_norm.forward(features).and_then(|normed| normed.to_dtype(DType::F16));
        normed.during("the norm after the vision tower")
    }

    pub(crate) fn qformer(&self) -> &QFormer {
        &self.qformer
    }

    pub(crate) fn projector(&self) -> &Projector {
        &self.projector
    }

    /// The learned queries `(1, Q, W)`.
    pub(crate) fn query_tokens(&self) -> &Tensor {
        &self.queries
    }

    /// Logits `(T, vocab)` of normed rows `(T, H)`.
    pub(crate) fn logits(&self, normed: &Tensor) -> Result<Tensor, ModelError> {
        self.language.logits(normed).during("the output head")
    }

    /// The same of sequences in a cache, with as many rows as its steps have.
    fn logits_in(&self, cache: &KvCache, normed: &Tensor) -> Result<Tensor, ModelError> {
        let Some(fixed) = cache.fixed_rows() else { return self.logits(normed) };
        let of_all = |rows| self.language.logits(&filled_up(normed, fixed.sequences)?)?.narrow(0, 0, rows);
        normed.dim(0).and_then(of_all).during("the output head")
    }

    /// Writes each row's embeddings behind what its slot holds, which the cache does not count yet: the normed stream
    /// `(T, H)` of all rows' positions, one row behind the other, and where they lie.
    pub(crate) fn hidden(
        &self,
        rows: &[PrefillRow],
        cache: &KvCache,
        probe: Probe,
    ) -> Result<(Tensor, Vec<Span>), ModelError> {
        let mut lengths = Vec::with_capacity(rows.len());
        for row in rows {
            let (tokens, _) = row.embeds.dims2().during("reading of a prompt's shape")?;
            lengths.push((row.slot, tokens));
        }
        let spans = cache.plan(lengths)?;
        let embeds: Vec<&Tensor> = rows.iter().map(|row| &row.embeds).collect();
        let stream = Tensor::cat(&embeds, 0).during("joining of prompts")?;
        let shares = rows.iter().zip(&spans).map(|(row, span)| (span.tokens, row.adapter.as_deref()));
        let normed = self.forward(&stream, Rows::Many, &spans, &Shares::of(shares), cache, probe)?;
        Ok((normed, spans))
    }

    fn forward(
        &self,
        stream: &Tensor,
        usual: Rows,
        spans: &[Span],
        shares: &Shares<'_>,
        cache: &KvCache,
        probe: Probe,
    ) -> Result<Tensor, ModelError> {
        match cache.fixed_rows() {
            None => self.language.forward(stream, usual, spans, cache, shares, probe),
            Some(fixed) => self.forward_in_pieces(stream, usual, spans, shares, (cache, fixed), probe),
        }
        .during("the language model")
    }

    /// Piece by piece, each filled up to the same number of rows.
    fn forward_in_pieces(
        &self,
        stream: &Tensor,
        usual: Rows,
        spans: &[Span],
        shares: &Shares<'_>,
        (cache, fixed): (&KvCache, FixedRows),
        probe: Probe,
    ) -> candle_core::Result<Tensor> {
        let size = match usual {
            Rows::Few => fixed.sequences,
            Rows::Many => fixed.tokens,
        };
        let (mut start, mut normed) = (0, Vec::new());
        for piece in pieces(spans, size) {
            let rows = piece.iter().map(|span| span.tokens).sum();
            let own = filled_up(&stream.narrow(0, start, rows)?, size)?;
            let shares = shares.part(start, rows, size - rows);
            normed
                .push(self.language.forward(&own, usual, &piece, cache, &shares, probe)?.narrow(0, 0, rows)?);
            start += rows;
        }
        Tensor::cat(&normed, 0)
    }
}

/// Counts prompts as held, each with what it was read with.
fn count(rows: &[PrefillRow], spans: &[Span], cache: &mut KvCache) {
    cache.commit(spans);
    for row in rows {
        cache.adopt(row.slot, row.adapter.clone());
    }
}

/// The last of each group of consecutive rows.
fn last_rows(stream: &Tensor, spans: &[Span]) -> candle_core::Result<Tensor> {
    let mut end = 0;
    let last: Vec<u32> = spans
        .iter()
        .map(|span| {
            end += span.tokens;
            end as u32 - 1
        })
        .collect();
    stream.index_select(&Tensor::new(last, stream.device())?, 0)
}
