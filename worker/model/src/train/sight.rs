//! What leads from the vision tower to the language model, with gradients.

use candle_core::{DType, Module, Result, Tensor};
use captionfleet_kernels::Activation;

use super::differentiable::{gelu, softmax};
use super::learning::{Adapted, Maker, Norm, Whole};
use super::{Sight, TrainOptions};
use crate::linear::FrozenLinear;
use crate::{ModelError, TinyGptV, qformer};

/// The mirror of those parts through which gradients must go.
pub(super) struct SightStudent {
    qformer: Option<QFormer>,
    projections: Vec<Projection>,
}

struct QFormer {
    /// `(1, Q, W)`, normed.
    queries: Tensor,
    layers: Vec<Layer>,
}

struct Layer {
    attention: Attention,
    cross_attention: Option<Attention>,
    intermediate: Adapted,
    output: Adapted,
    norm: Norm,
}

struct Attention {
    heads: usize,
    query: Adapted,
    key: Adapted,
    value: Adapted,
    output: Adapted,
    norm: Norm,
}

enum Projection {
    Frozen(FrozenLinear),
    Learns(Whole),
}

impl SightStudent {
    pub(super) fn new(made: &mut Maker<'_>) -> Result<Self> {
        let begins = made.options.sight();
        let qformer = (begins == Sight::Features).then(|| QFormer::new(made)).transpose()?;
        let mut projections = Vec::new();
        if begins != Sight::ImageTokens {
            let layers = made.model.projector().layers();
            for (name, layer) in ["llama_proj", "llama_proj2"].into_iter().zip(layers) {
                projections.push(if made.options.projections {
                    Projection::Learns(made.whole(name, layer)?)
                } else {
                    Projection::Frozen(FrozenLinear::of(layer)?)
                });
            }
        }
        Ok(Self { qformer, projections })
    }

    /// Image tokens `(B, Q, H)` of what is known of pictures, as [`TrainOptions::sight`] says.
    pub(super) fn image_tokens(&self, pictures: &Tensor) -> Result<Tensor> {
        let mut stream = pictures.to_dtype(DType::F32)?;
        if let Some(qformer) = &self.qformer {
            stream = qformer.forward(&stream)?;
        }
        for projection in &self.projections {
            stream = match projection {
                Projection::Frozen(layer) => layer.forward(&stream)?,
                Projection::Learns(layer) => layer.forward(&stream)?,
            };
        }
        Ok(stream)
    }
}

impl Sight {
    /// What a training takes of pictures with these features `(B, N, D)`, one behind the other.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of(self, model: &TinyGptV, features: &Tensor) -> std::result::Result<Tensor, ModelError> {
        match self {
            Self::ImageTokens => model.image_tokens(features),
            Self::Queries => model.queries_of(features),
            Self::Features => model.normed(features),
        }
    }
}

impl TrainOptions {
    /// With what of a picture the training begins.
    pub fn sight(&self) -> Sight {
        match (self.qformer, self.projections) {
            (true, _) => Sight::Features,
            (false, true) => Sight::Queries,
            (false, false) => Sight::ImageTokens,
        }
    }
}

impl QFormer {
    fn new(made: &mut Maker<'_>) -> Result<Self> {
        let qformer = made.model.qformer();
        let queries = qformer.norm().forward(made.model.query_tokens())?;
        let mut layers = Vec::with_capacity(qformer.layers().len());
        for (index, layer) in qformer.layers().iter().enumerate() {
            layers.push(Layer::new(made, &format!("Qformer.bert.encoder.layer.{index}"), layer)?);
        }
        Ok(Self { queries, layers })
    }

    /// Queries `(B, Q, W)` after attending to normed features `(B, N, D)`.
    fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let (_, count, width) = self.queries.dims3()?;
        let mut stream = self.queries.broadcast_as((pictures.dim(0)?, count, width))?.contiguous()?;
        for layer in &self.layers {
            stream = layer.attention.forward(&stream, &stream)?;
            if let Some(attention) = &layer.cross_attention {
                stream = attention.forward(&stream, pictures)?;
            }
            let hidden = gelu(Activation::GeluErf, &layer.intermediate.forward(&stream)?)?;
            stream = layer.norm.forward(&(layer.output.forward(&hidden)? + &stream)?)?;
        }
        Ok(stream)
    }
}

impl Layer {
    fn new(made: &mut Maker<'_>, name: &str, layer: &qformer::Layer) -> Result<Self> {
        let config = made.model.config();
        let (width, hidden) = (config.qformer.hidden_size, config.qformer.intermediate_size);
        let picture = config.vision.embed_dim;
        let feed_forward = layer.feed_forward();
        let intermediate = format!("{name}.intermediate_query.dense");
        let output = format!("{name}.output_query.dense");
        Ok(Self {
            attention: Attention::new(made, &format!("{name}.attention"), layer.attention(), width)?,
            cross_attention: layer
                .cross_attention()
                .map(|layer| Attention::new(made, &format!("{name}.crossattention"), layer, picture))
                .transpose()?,
            intermediate: made.adapted(&feed_forward.intermediate, Some(&intermediate), (width, hidden))?,
            output: made.adapted(&feed_forward.output, Some(&output), (hidden, width))?,
            norm: Norm::frozen(&feed_forward.norm),
        })
    }
}

impl Attention {
    fn new(made: &mut Maker<'_>, name: &str, layer: &qformer::Attention, source: usize) -> Result<Self> {
        let width = made.model.config().qformer.hidden_size;
        let mut adapted =
            |part: &str, layer, inputs| made.adapted(layer, Some(&format!("{name}.{part}")), (inputs, width));
        Ok(Self {
            heads: layer.heads,
            query: adapted("self.query", &layer.query, width)?,
            key: adapted("self.key", &layer.key, source)?,
            value: adapted("self.value", &layer.value, source)?,
            output: adapted("output.dense", &layer.output, width)?,
            norm: Norm::frozen(&layer.norm),
        })
    }

    /// `stream` `(B, S, W)` attends to `source` `(B, N, D)`.
    fn forward(&self, stream: &Tensor, source: &Tensor) -> Result<Tensor> {
        let (batch, _, width) = stream.dims3()?;
        let head = width / self.heads;
        let split = |xs: Tensor| xs.reshape((batch, (), self.heads, head))?.transpose(1, 2)?.contiguous();
        let queries = split(self.query.forward(stream)?)?;
        let keys = split(self.key.forward(source)?)?;
        let values = split(self.value.forward(source)?)?;
        let scores = queries.matmul(&keys.t()?.contiguous()?)?;
        let seen = softmax(&scores, (head as f64).powf(-0.5), false)?.matmul(&values)?;
        let seen = seen.transpose(1, 2)?.flatten_from(2)?;
        self.norm.forward(&(self.output.forward(&seen)? + stream)?)
    }
}
