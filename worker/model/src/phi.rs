//! The language model: Phi-2 with LayerNorms on queries and keys and an RMSNorm after attention;
//! attention and MLP read the same normed input.
use candle_core::{Module, Result, Tensor};
use captionfleet_kernels::{Activation, Rows};

use crate::{
    ModelError, PhiConfig, WeightError, Weights,
    activation::gelu,
    adapter::{LayerAdapter, LowRank, Shares},
    attention::attend_in_slots,
    error::DuringStep,
    kv_cache::{KvCache, LayerCache, Span},
    linear::{Linear, TokenTable},
    norm::{LayerNorm, RmsNorm},
    own_kernels::{OwnKernels, SlotStep},
    probe::{Point, Probe, unwatched},
    rotary::{Rotary, RotaryRows},
};

/// Weights below `llama_model`.
#[derive(Debug)]
pub(crate) struct Phi {
    tokens: TokenTable,
    /// As prompts pass them.
    layers: Vec<Layer>,
    /// The same, as the rows of a decode step pass them.
    step_layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
    rotary: Rotary,
    head_dim: usize,
    kernels: OwnKernels,
}

impl Phi {
    pub(crate) fn load(weights: &Weights, config: &PhiConfig) -> std::result::Result<Self, ModelError> {
        let model = weights.pp("model");
        let width = config.hidden_size;
        let tokens = model.pp("embed_tokens").token_table(config.vocab_size, width)?;
        let layers: Vec<Layer> = (0..config.num_layers)
            .map(|index| Layer::load(&model.pp("layers").pp(index), config))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            tokens,
            step_layers: layers.iter().map(Layer::for_few_rows).collect(),
            layers,
            norm: LayerNorm::load(&model.pp("final_layernorm"), width, config.layer_norm_eps)?,
            head: weights.linear(width, config.vocab_size, "lm_head")?.for_few_rows(),
            rotary: Rotary::new(config, weights.device()).during("making of the rotary tables")?,
            head_dim: config.head_dim(),
            kernels: weights.kernels(),
        })
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(crate) fn head(&self) -> &Linear {
        &self.head
    }

    pub(crate) fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    pub(crate) fn final_norm(&self) -> &LayerNorm {
        &self.norm
    }

    /// Embeddings `(T, H)` of token ids.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.tokens.rows(ids)
    }

    /// Appends the rows' embeddings, one behind the other in `stream` `(T, H)`, to their slots;
    /// returns the normed stream `(T, H)`. `usual` is few for a decode step and many for prompts. Rows of the stream behind
    /// the spans' belong to nobody. The caller records the new lengths when all went well. `shares` says which rows use
    /// which adapter.
    pub(crate) fn forward(
        &self,
        stream: &Tensor,
        usual: Rows,
        spans: &[Span],
        cache: &KvCache,
        shares: &Shares<'_>,
        probe: Probe,
    ) -> Result<Tensor> {
        let mut positions: Vec<u32> = spans.iter().flat_map(Span::positions).collect();
        positions.resize(stream.dim(0)?, 0);
        let rotary = self.rotary.rows(&positions)?;
        let step = self.kernels.slot_step(spans, positions.len(), self.head_dim, stream.device())?;
        self.through_layers(stream, &Batch { usual, spans, rotary, step }, cache, shares, probe)
    }

    /// Whether its decode steps in that cache can be recorded. Products of blocks cannot: what they need beside their operands moves
    /// when a larger one comes.
    pub(crate) fn can_be_recorded(&self, cache: &KvCache) -> bool {
        let matrices = self.layers.iter().flat_map(Layer::matrices).chain([&self.head]);
        self.kernels.can_be_recorded(self.head_dim, cache.max_len())
            && self.tokens.is_dense()
            && matrices.into_iter().all(Linear::is_dense)
    }

    /// Logits `(rows, vocab)` of a decode step, of token, slot and place of each row `(3, rows)` as u32; nothing but kernels.
    pub(crate) fn decode_on_device(&self, rows: &Tensor, cache: &KvCache) -> Result<Tensor> {
        let stream = self.embed(&rows.get(0)?)?;
        let (slots, places) = (rows.get(1)?, rows.get(2)?);
        let rotary = self.rotary.rows_at(&places)?;
        let step = Some(SlotStep::on_device(slots, places, cache.max_len()));
        let batch = Batch { usual: Rows::Few, spans: &[], rotary, step };
        let normed = self.through_layers(&stream, &batch, cache, &Shares::default(), &mut unwatched)?;
        self.logits(&normed)
    }

    fn through_layers(
        &self,
        stream: &Tensor,
        batch: &Batch<'_>,
        cache: &KvCache,
        shares: &Shares<'_>,
        probe: Probe,
    ) -> Result<Tensor> {
        let mut stream = stream.clone();
        let layers = match batch.usual {
            Rows::Few => &self.step_layers,
            Rows::Many => &self.layers,
        };
        for (index, (layer, cache)) in layers.iter().zip(cache.layers()).enumerate() {
            let own = Own { layer: index, shares };
            stream = layer.forward(&stream, batch, cache, own)?;
            probe(Point::LanguageLayer(index + 1), &stream);
        }
        let normed = shares.through(&self.norm, &stream, |adapter| adapter.final_norm.as_ref())?;
        probe(Point::LanguageNorm, &normed);
        Ok(normed)
    }

    /// Of logits `(rows, vocab)`, what [`OwnKernels::likeliest`] makes of their first `valid`.
    pub(crate) fn likeliest(&self, logits: &Tensor, valid: usize) -> Result<Option<Tensor>> {
        self.kernels.likeliest(logits, valid)
    }

    /// Logits `(rows, vocab)` of normed rows `(rows, H)`.
    pub(crate) fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        self.head.forward(normed)
    }
}

/// `xs` `(rows, H)` with rows of zeros behind it, `wanted` rows in all.
pub(crate) fn filled_up(xs: &Tensor, wanted: usize) -> Result<Tensor> {
    let (rows, width) = xs.dims2()?;
    if rows >= wanted {
        return Ok(xs.clone());
    }
    Tensor::cat(&[xs, &Tensor::zeros((wanted - rows, width), xs.dtype(), xs.device())?], 0)
}

/// The rows of a step.
struct Batch<'a> {
    usual: Rows,
    spans: &'a [Span],
    rotary: RotaryRows,
    /// For a kernel, if there is one for them.
    step: Option<SlotStep>,
}

/// What the rows' adapters have of their own for one layer.
#[derive(Clone, Copy)]
struct Own<'a> {
    layer: usize,
    shares: &'a Shares<'a>,
}

impl<'a> Own<'a> {
    fn through<M: Module + 'a>(
        self,
        base: &M,
        xs: &Tensor,
        own: impl Fn(&'a LayerAdapter) -> Option<&'a M>,
    ) -> Result<Tensor> {
        self.shares.through(base, xs, |adapter| own(adapter.layer(self.layer)?))
    }

    /// Whether any adapter changes such a part of the layer.
    fn any(self, changes: impl Fn(&'a LayerAdapter) -> bool) -> bool {
        self.shares.any(|adapter| adapter.layer(self.layer).is_some_and(&changes))
    }

    /// `xs` through a linear layer of the base, with the adapters' changes.
    fn changed(
        self,
        base: &Linear,
        xs: &Tensor,
        change: impl Fn(&'a LayerAdapter) -> Option<&'a LowRank>,
    ) -> Result<Tensor> {
        self.shares.add(base.forward(xs)?, xs, |adapter| change(adapter.layer(self.layer)?))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    norm: LayerNorm,
    attention: Attention,
    post_norm: RmsNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(weights: &Weights, config: &PhiConfig) -> std::result::Result<Self, WeightError> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let norm = LayerNorm::load(&weights.pp("input_layernorm"), width, config.layer_norm_eps)?;
        let attention = Attention::load(&weights.pp("self_attn"), config)?;
        let post_norm = RmsNorm::load(&weights.pp("post_layernorm"), width, config.post_layernorm_eps)?;
        let fc1 = weights.linear(width, hidden, "mlp.fc1")?;
        Ok(Self {
            norm: norm.before(&[attention.query_key_value.input_type(), fc1.input_type()]),
            attention,
            post_norm,
            fc1,
            fc2: weights.linear(hidden, width, "mlp.fc2")?,
        })
    }

    /// The same layer for a row of each sequence.
    fn for_few_rows(&self) -> Self {
        let Attention { query_key_value, dense, .. } = &self.attention;
        let (query_key_value, dense) = (query_key_value.for_few_rows(), dense.for_few_rows());
        Self {
            attention: Attention { query_key_value, dense, ..self.attention.clone() },
            fc1: self.fc1.for_few_rows(),
            fc2: self.fc2.for_few_rows(),
            ..self.clone()
        }
    }

    fn forward(
        &self,
        stream: &Tensor,
        batch: &Batch<'_>,
        cache: &LayerCache,
        own: Own<'_>,
    ) -> Result<Tensor> {
        let normed = own.through(&self.norm, stream, |layer| layer.norm.as_ref())?;
        let seen = self.attention.forward(&normed, batch, cache, own)?;
        let summed = self.attended(stream, &seen, own)?;
        if !own.any(LayerAdapter::changes_mlp) {
            return Linear::feed_forward([&self.fc1, &self.fc2], Activation::GeluTanh, &summed, &normed);
        }
        // The same bits for rows without an adapter.
        let hidden = own.changed(&self.fc1, &normed, |layer| layer.fc1.as_ref())?;
        let hidden = gelu(Activation::GeluTanh, &hidden)?;
        summed + own.changed(&self.fc2, &hidden, |layer| layer.fc2.as_ref())?
    }

    /// What was seen, through the output projection and its norm, added to the stream.
    fn attended(&self, stream: &Tensor, seen: &Tensor, own: Own<'_>) -> Result<Tensor> {
        let dense = &self.attention.dense;
        if !own.any(|layer| layer.dense.is_some() || layer.post_norm.is_some()) {
            return dense.normed_and_added(stream, seen, &self.post_norm);
        }
        let attended = own.changed(dense, seen, |layer| layer.dense.as_ref())?;
        own.through(&self.post_norm, &attended, |layer| layer.post_norm.as_ref())? + stream
    }

    /// The linear layers: `query_key_value`, `dense`, `fc1`, `fc2`.
    pub(crate) fn matrices(&self) -> [&Linear; 4] {
        [&self.attention.query_key_value, &self.attention.dense, &self.fc1, &self.fc2]
    }

    pub(crate) fn norm(&self) -> &LayerNorm {
        &self.norm
    }

    pub(crate) fn query_norm(&self) -> &LayerNorm {
        &self.attention.query_norm
    }

    pub(crate) fn key_norm(&self) -> &LayerNorm {
        &self.attention.key_norm
    }

    pub(crate) fn post_norm(&self) -> &RmsNorm {
        &self.post_norm
    }
}

#[derive(Clone, Debug)]
struct Attention {
    heads: usize,
    head_dim: usize,
    query_key_value: Linear,
    query_norm: LayerNorm,
    key_norm: LayerNorm,
    dense: Linear,
}

impl Attention {
    fn load(weights: &Weights, config: &PhiConfig) -> std::result::Result<Self, WeightError> {
        let (width, head_dim, eps) = (config.hidden_size, config.head_dim(), config.layer_norm_eps);
        Ok(Self {
            heads: config.num_heads,
            head_dim,
            query_key_value: weights.linear(width, 3 * width, "query_key_value")?,
            query_norm: LayerNorm::load(&weights.pp("q_layernorm"), head_dim, eps)?,
            key_norm: LayerNorm::load(&weights.pp("k_layernorm"), head_dim, eps)?,
            dense: weights.linear(width, width, "dense")?,
        })
    }

    /// What each row sees, before the output projection.
    fn forward(
        &self,
        normed: &Tensor,
        batch: &Batch<'_>,
        cache: &LayerCache,
        own: Own<'_>,
    ) -> Result<Tensor> {
        let tokens = normed.dim(0)?;
        // The fused rows are ordered by head: query, key and value of head 0, then of head 1 …
        let fused = own.changed(&self.query_key_value, normed, |layer| layer.query_key_value.as_ref())?;
        let fused = fused.reshape((tokens, self.heads, 3, self.head_dim))?;
        let changes_norms = |layer: &LayerAdapter| layer.query_norm.is_some() || layer.key_norm.is_some();
        if let Some(step) = batch.step.as_ref().filter(|_| !own.any(changes_norms)) {
            return step.attend(
                &fused,
                (self.query_norm.parts(), self.key_norm.parts()),
                &batch.rotary,
                cache,
            );
        }
        let part = |index: usize| fused.narrow(2, index, 1)?.squeeze(2);
        let queries = own.through(&self.query_norm, &part(0)?, |layer| layer.query_norm.as_ref())?;
        let queries = batch.rotary.apply(&queries)?;
        let keys = own.through(&self.key_norm, &part(1)?, |layer| layer.key_norm.as_ref())?;
        let keys = batch.rotary.apply(&keys)?;
        let values = part(2)?.transpose(0, 1)?;
        let own: usize = batch.spans.iter().map(|span| span.tokens).sum();
        let [queries, keys, values] = [queries, keys, values].map(|part| part.narrow(1, 0, own));
        let seen = attend_in_slots([&queries?, &keys?, &values?], batch.spans, cache)?;
        filled_up(&seen, tokens)
    }
}
