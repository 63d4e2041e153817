//! The language model: Phi-2 with LayerNorms on queries and keys and an RMSNorm after attention;
//! attention and MLP read the same normed input.
use candle_core::{Module, Result, Tensor};
use captionfleet_kernels::Activation;

use crate::{
    ModelError, PhiConfig, WeightError, Weights,
    activation::gelu,
    adapter::{LayerAdapter, LowRank, Shares},
    error::DuringStep,
    kv_cache::{KvCache, LayerCache, Span},
    linear::{Linear, TokenTable},
    norm::{LayerNorm, RmsNorm},
    probe::{Point, Probe},
    rotary::{Rotary, RotaryRows},
};

/// Weights below `llama_model`.
#[derive(Debug)]
pub(crate) struct Phi {
    tokens: TokenTable,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
    rotary: Rotary,
}

impl Phi {
    pub(crate) fn load(weights: &Weights, config: &PhiConfig) -> std::result::Result<Self, ModelError> {
        let model = weights.pp("model");
        let width = config.hidden_size;
        Ok(Self {
            tokens: model.pp("embed_tokens").token_table(config.vocab_size, width)?,
            layers: (0..config.num_layers)
                .map(|index| Layer::load(&model.pp("layers").pp(index), config))
                .collect::<std::result::Result<_, _>>()?,
            norm: LayerNorm::load(&model.pp("final_layernorm"), width, config.layer_norm_eps)?,
            head: weights.linear(width, config.vocab_size, "lm_head")?,
            rotary: Rotary::new(config, weights.device()).during("making of the rotary tables")?,
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
    /// returns the normed stream `(T, H)`. The caller records the new lengths when all went well. `shares` says which
    /// rows use which adapter.
    pub(crate) fn forward(
        &self,
        stream: &Tensor,
        spans: &[Span],
        cache: &KvCache,
        shares: &Shares<'_>,
        probe: Probe,
    ) -> Result<Tensor> {
        let positions: Vec<u32> = spans.iter().flat_map(Span::positions).collect();
        let rotary = self.rotary.rows(&positions)?;
        let mut stream = stream.clone();
        for (index, (layer, cache)) in self.layers.iter().zip(cache.layers()).enumerate() {
            let own = Own { layer: index, shares };
            stream = layer.forward(&stream, spans, &rotary, cache, own)?;
            probe(Point::LanguageLayer(index + 1), &stream);
        }
        let normed = shares.through(&self.norm, &stream, |adapter| adapter.final_norm.as_ref())?;
        probe(Point::LanguageNorm, &normed);
        Ok(normed)
    }

    /// Logits `(rows, vocab)` of normed rows `(rows, H)`.
    pub(crate) fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        self.head.forward(normed)
    }
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

#[derive(Debug)]
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
        Ok(Self {
            norm: LayerNorm::load(&weights.pp("input_layernorm"), width, config.layer_norm_eps)?,
            attention: Attention::load(&weights.pp("self_attn"), config)?,
            post_norm: RmsNorm::load(&weights.pp("post_layernorm"), width, config.post_layernorm_eps)?,
            fc1: weights.linear(width, hidden, "mlp.fc1")?,
            fc2: weights.linear(hidden, width, "mlp.fc2")?,
        })
    }

    fn forward(
        &self,
        stream: &Tensor,
        spans: &[Span],
        rotary: &RotaryRows,
        cache: &LayerCache,
        own: Own<'_>,
    ) -> Result<Tensor> {
        let normed = own.through(&self.norm, stream, |layer| layer.norm.as_ref())?;
        let attended = self.attention.forward(&normed, spans, rotary, cache, own)?;
        let attended = own.through(&self.post_norm, &attended, |layer| layer.post_norm.as_ref())?;
        let summed = (attended + stream)?;
        if !own.shares.any(|adapter| adapter.layer(own.layer).is_some_and(LayerAdapter::changes_mlp)) {
            let hidden = self.fc1.activated(&normed, Activation::GeluTanh)?;
            return self.fc2.added_to(&summed, &hidden);
        }
        // The same bits for rows without an adapter.
        let hidden = own.changed(&self.fc1, &normed, |layer| layer.fc1.as_ref())?;
        let hidden = gelu(Activation::GeluTanh, &hidden)?;
        summed + own.changed(&self.fc2, &hidden, |layer| layer.fc2.as_ref())?
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

#[derive(Debug)]
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

    fn forward(
        &self,
        normed: &Tensor,
        spans: &[Span],
        rotary: &RotaryRows,
        cache: &LayerCache,
        own: Own<'_>,
    ) -> Result<Tensor> {
        let tokens = normed.dim(0)?;
        // The fused rows are ordered by head: query, key and value of head 0, then of head 1 …
        let fused = own.changed(&self.query_key_value, normed, |layer| layer.query_key_value.as_ref())?;
        let fused = fused.reshape((tokens, self.heads, 3, self.head_dim))?;
        let part = |index: usize| fused.narrow(2, index, 1)?.squeeze(2);
        let queries = own.through(&self.query_norm, &part(0)?, |layer| layer.query_norm.as_ref())?;
        let queries = rotary.apply(&queries)?;
        let keys = own.through(&self.key_norm, &part(1)?, |layer| layer.key_norm.as_ref())?;
        let keys = rotary.apply(&keys)?;
        let values = part(2)?.transpose(0, 1)?;
        let mut start = 0;
        for span in spans {
            let row = |xs: &Tensor| xs.narrow(1, start, span.tokens);
            cache.append(span, &row(&keys)?, &row(&values)?)?;
            start += span.tokens;
        }
        let attended = self.attend(&queries, spans, cache)?;
        own.changed(&self.dense, &attended, |layer| layer.dense.as_ref())
    }

    /// Every span's queries, of `(heads, T, head_dim)`, to what its slot holds: `(T, heads * head_dim)`.
    fn attend(&self, queries: &Tensor, spans: &[Span], cache: &LayerCache) -> Result<Tensor> {
        let scale = (self.head_dim as f64).powf(-0.5);
        if cache.reads_in_place() && spans.iter().all(|span| span.tokens == 1) {
            return cache.attend_singly(queries, spans, scale);
        }
        let mut start = 0;
        let mut rows = Vec::with_capacity(spans.len());
        for span in spans {
            rows.push(cache.attend(&queries.narrow(1, start, span.tokens)?, span, scale)?);
            start += span.tokens;
        }
        Tensor::cat(&rows, 0)
    }
}
