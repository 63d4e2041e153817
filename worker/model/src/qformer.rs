//! The Q-Former: a post-norm BERT whose learned queries attend to a picture, with a text path in
//! the retrieval heads.
mod own;

use candle_core::{Module, Result, Tensor};
use captionfleet_kernels::Backend;

use self::own::Own;
use crate::{
    QFormerConfig, WeightError, Weights,
    adapter::{AttentionAdapter, QFormerLayerAdapter, Shares},
    attention::attend_each,
    linear::{Linear, TokenTable},
    norm::LayerNorm,
    own_kernels::OwnKernels,
    probe::{Point, Probe, unwatched},
};

/// What a Q-Former with a text path has besides one without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextSizes {
    pub(crate) vocab_size: usize,
    pub(crate) max_positions: usize,
}

/// Weights below `…bert`.
#[derive(Debug)]
pub(crate) struct QFormer {
    norm: LayerNorm,
    layers: Vec<Layer>,
    text: Option<TextEmbeddings>,
}

#[derive(Debug)]
struct TextEmbeddings {
    words: TokenTable,
    positions: Tensor,
}

impl QFormer {
    /// `picture_width` is the width of what the queries attend to.
    pub(crate) fn load(
        weights: &Weights,
        config: &QFormerConfig,
        picture_width: usize,
        text: Option<TextSizes>,
    ) -> std::result::Result<Self, WeightError> {
        let embeddings = weights.pp("embeddings");
        let width = config.hidden_size;
        let norm = LayerNorm::load(&embeddings.pp("LayerNorm"), width, config.layer_norm_eps)?;
        let layers = (0..config.num_layers)
            .map(|index| {
                let weights = weights.pp("encoder.layer").pp(index);
                let picture_width = config.has_cross_attention(index).then_some(picture_width);
                Layer::load(&weights, config, picture_width, text.is_some())
            })
            .collect::<std::result::Result<_, _>>()?;
        let text = text
            .map(|sizes| {
                Ok(TextEmbeddings {
                    words: embeddings.pp("word_embeddings").token_table(sizes.vocab_size, width)?,
                    positions: embeddings
                        .tensor((sizes.max_positions, width), "position_embeddings.weight")?,
                })
            })
            .transpose()?;
        Ok(Self { norm, layers, text })
    }

    /// Queries `(B, Q, H)` after attending to pictures `(B, N, D)`; `shares` says which picture is seen with which adapter.
    pub(crate) fn queries(
        &self,
        queries: &Tensor,
        pictures: &Tensor,
        shares: &Shares<'_>,
        probe: Probe,
    ) -> Result<Tensor> {
        let (count, width) = (queries.dim(1)?, queries.dim(2)?);
        let queries = queries.broadcast_as((pictures.dim(0)?, count, width))?;
        self.encode(&queries, count, Some(pictures), None, shares, probe)
    }

    /// Hidden states `(1, T, H)` of a text. Ids from `real` on are padding that nobody looks at.
    pub(crate) fn text(&self, ids: &[u32], real: usize, probe: Probe) -> Result<Tensor> {
        let stream = self.embed_text(ids)?;
        let mask = (real < ids.len())
            .then(|| {
                let mask = (0..ids.len()).map(|i| if i < real { 0.0 } else { f32::NEG_INFINITY });
                Tensor::from_iter(mask, stream.device())?.reshape((1, ids.len()))
            })
            .transpose()?;
        self.encode(&stream, 0, None, mask.as_ref(), &Shares::default(), probe)
    }

    /// Queries `(1, Q, H)` after attending to one picture `(1, N, D)` and to a text together.
    pub(crate) fn queries_with_text(
        &self,
        queries: &Tensor,
        picture: &Tensor,
        ids: &[u32],
    ) -> Result<Tensor> {
        let count = queries.dim(1)?;
        let stream = Tensor::cat(&[queries, &self.embed_text(ids)?], 1)?;
        let shares = Shares::default();
        self.encode(&stream, count, Some(picture), None, &shares, &mut unwatched)?.narrow(1, 0, count)
    }

    fn embed_text(&self, ids: &[u32]) -> Result<Tensor> {
        let Some(text) = &self.text else { candle_core::bail!("this Q-Former has no text path") };
        let device = text.positions.device();
        let words = text.words.rows(&Tensor::new(ids, device)?)?;
        (words + text.positions.narrow(0, 0, ids.len())?)?.unsqueeze(0)
    }

    /// `stream` `(B, S, H)` begins with `queries` query rows; the rest is text.
    fn encode(
        &self,
        stream: &Tensor,
        queries: usize,
        pictures: Option<&Tensor>,
        mask: Option<&Tensor>,
        shares: &Shares<'_>,
        probe: Probe,
    ) -> Result<Tensor> {
        let mut stream = self.norm.forward(stream)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let is_changed = shares.any(|adapter| adapter.qformer(index).is_some());
            let own = Own { layer: index, shares: is_changed.then_some(shares) };
            stream = layer.forward(&stream, queries, pictures, mask, own)?;
            probe(Point::QFormerLayer(index), &stream);
        }
        Ok(stream)
    }

    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The norm of the queries before the first layer.
    pub(crate) fn norm(&self) -> &LayerNorm {
        &self.norm
    }
}

#[derive(Debug)]
pub(crate) struct Layer {
    attention: Attention,
    cross_attention: Option<Attention>,
    query_feed_forward: FeedForward,
    text_feed_forward: Option<FeedForward>,
}

impl Layer {
    fn load(
        weights: &Weights,
        config: &QFormerConfig,
        picture_width: Option<usize>,
        text: bool,
    ) -> std::result::Result<Self, WeightError> {
        Ok(Self {
            attention: Attention::load(&weights.pp("attention"), config, config.hidden_size)?,
            cross_attention: picture_width
                .map(|width| Attention::load(&weights.pp("crossattention"), config, width))
                .transpose()?,
            query_feed_forward: FeedForward::load(weights, config, "_query")?,
            text_feed_forward: text.then(|| FeedForward::load(weights, config, "")).transpose()?,
        })
    }

    fn forward(
        &self,
        stream: &Tensor,
        queries: usize,
        pictures: Option<&Tensor>,
        mask: Option<&Tensor>,
        own: Own<'_>,
    ) -> Result<Tensor> {
        let stream = self.attention.forward(stream, stream, mask, own, |layer| &layer.attention)?;
        let texts = stream.dim(1)? - queries;
        let mut parts = Vec::with_capacity(2);
        if queries > 0 {
            let part = stream.narrow(1, 0, queries)?.contiguous()?;
            let part = match (&self.cross_attention, pictures) {
                (Some(attention), Some(pictures)) => {
                    attention.forward(&part, pictures, None, own, |layer| &layer.cross_attention)?
                }
                _ => part,
            };
            parts.push(self.query_feed_forward.forward(&part, own)?);
        }
        if texts > 0 {
            let Some(feed_forward) = &self.text_feed_forward else {
                candle_core::bail!("this Q-Former has no text path")
            };
            parts.push(feed_forward.forward(&stream.narrow(1, queries, texts)?.contiguous()?, Own::NONE)?);
        }
        Tensor::cat(&parts, 1)
    }

    pub(crate) fn attention(&self) -> &Attention {
        &self.attention
    }

    /// Where the queries look at the picture.
    pub(crate) fn cross_attention(&self) -> Option<&Attention> {
        self.cross_attention.as_ref()
    }

    /// What the queries go through after attention.
    pub(crate) fn feed_forward(&self) -> &FeedForward {
        &self.query_feed_forward
    }
}

/// Attention with its output layer, residual and norm.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) norm: LayerNorm,
    kernels: OwnKernels,
}

impl Attention {
    fn load(
        weights: &Weights,
        config: &QFormerConfig,
        source_width: usize,
    ) -> std::result::Result<Self, WeightError> {
        let width = config.hidden_size;
        Ok(Self {
            heads: config.num_heads,
            query: weights.linear(width, width, "self.query")?,
            key: weights.linear(source_width, width, "self.key")?,
            value: weights.linear(source_width, width, "self.value")?,
            output: weights.linear(width, width, "output.dense")?,
            norm: LayerNorm::load(&weights.pp("output.LayerNorm"), width, config.layer_norm_eps)?,
            kernels: weights.kernels(),
        })
    }

    /// `stream` `(B, S, H)` attends to `source` `(B, N, D)`.
    fn forward<'a>(
        &self,
        stream: &Tensor,
        source: &Tensor,
        mask: Option<&Tensor>,
        own: Own<'a>,
        of: impl Fn(&'a QFormerLayerAdapter) -> &'a AttentionAdapter,
    ) -> Result<Tensor> {
        let (batch, _, width) = stream.dims3()?;
        let head_dim = width / self.heads;
        let scale = (head_dim as f64).powf(-0.5);
        let split = |xs: Tensor| xs.reshape((batch, (), self.heads, head_dim))?.transpose(1, 2);
        let queries = split(own.changed(&self.query, stream, |layer| of(layer).query.as_ref())?)?;
        let keys = split(own.changed(&self.key, source, |layer| of(layer).key.as_ref())?)?;
        let values = split(own.changed(&self.value, source, |layer| of(layer).value.as_ref())?)?;
        let seen = attend_each([&queries, &keys, &values], scale, mask, Backend::best(), self.kernels)?;
        own.added_and_normed(&self.output, &self.norm, stream, &seen, |layer| of(layer).output.as_ref())
    }
}

/// The two linear layers of a branch with residual and norm.
#[derive(Debug)]
pub(crate) struct FeedForward {
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) norm: LayerNorm,
}

impl FeedForward {
    fn load(
        weights: &Weights,
        config: &QFormerConfig,
        branch: &str,
    ) -> std::result::Result<Self, WeightError> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let output = weights.pp(format!("output{branch}"));
        Ok(Self {
            intermediate: weights.linear(width, hidden, &format!("intermediate{branch}.dense"))?,
            output: output.linear(hidden, width, "dense")?,
            norm: LayerNorm::load(&output.pp("LayerNorm"), width, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, stream: &Tensor, own: Own<'_>) -> Result<Tensor> {
        let hidden = own.activated(&self.intermediate, stream, |layer| layer.intermediate.as_ref())?;
        own.added_and_normed(&self.output, &self.norm, stream, &hidden, |layer| layer.output.as_ref())
    }
}
