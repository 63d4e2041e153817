//! The language model with gradients: as in `phi`, for whole sequences at once and without a cache.

use candle_core::{Result, Tensor};
use captionfleet_kernels::Activation;

use super::differentiable::{gelu, softmax};
use super::learning::{Adapted, Change, Maker, Norm};
use crate::linear::FrozenLinear;
use crate::phi;
use crate::rotary::Rotary;

/// The mirror.
pub(super) struct Student {
    layers: Vec<Layer>,
    norm: Norm,
    head: FrozenLinear,
    rotary: Rotary,
    heads: usize,
}

struct Layer {
    norm: Norm,
    query_norm: Norm,
    key_norm: Norm,
    post_norm: Norm,
    query_key_value: Adapted,
    /// Changes of queries, keys and values alone.
    parts: [Option<Change>; 3],
    dense: Adapted,
    fc1: Adapted,
    fc2: Adapted,
}

impl Student {
    pub(super) fn new(made: &mut Maker<'_>) -> Result<Self> {
        let phi = made.model.language();
        let mut layers = Vec::with_capacity(phi.layers().len());
        for (index, layer) in phi.layers().iter().enumerate() {
            layers.push(Layer::new(made, index, layer)?);
        }
        Ok(Self {
            layers,
            norm: made.layer_norm("model.final_layernorm", phi.final_norm())?,
            head: FrozenLinear::of(phi.head())?,
            rotary: phi.rotary().clone(),
            heads: made.model.config().lm.num_heads,
        })
    }

    /// Logits `(places, vocab)` at `places` of the flattened positions of `stream` `(B, T, H)`.
    pub(super) fn logits(&self, stream: &Tensor, places: &Tensor) -> Result<Tensor> {
        let (_, tokens, width) = stream.dims3()?;
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let rotary = self.rotary.rows(&positions)?;
        let mut stream = stream.clone();
        for layer in &self.layers {
            let normed = layer.norm.forward(&stream)?;
            let [queries, keys, values] = self.attention_inputs(layer, &normed)?;
            let queries = rotary.turn(&layer.query_norm.forward(&queries)?.transpose(1, 2)?)?;
            let keys = rotary.turn(&layer.key_norm.forward(&keys)?.transpose(1, 2)?)?;
            let values = values.transpose(1, 2)?.contiguous()?;
            let scale = 1.0 / (queries.dim(3)? as f64).sqrt();
            let scores = queries.contiguous()?.matmul(&keys.t()?.contiguous()?)?;
            let seen = softmax(&scores, scale, true)?.matmul(&values)?.transpose(1, 2)?.flatten_from(2)?;
            let attended = layer.post_norm.forward(&layer.dense.forward(&seen)?)?;
            let fed = layer.fc2.forward(&gelu(Activation::GeluTanh, &layer.fc1.forward(&normed)?)?)?;
            stream = ((attended + fed)? + stream)?;
        }
        let chosen = stream.reshape(((), width))?.index_select(places, 0)?;
        candle_core::Module::forward(&self.head, &self.norm.forward(&chosen)?)
    }

    /// Queries, keys and values `(B, T, heads, d)`.
    fn attention_inputs(&self, layer: &Layer, normed: &Tensor) -> Result<[Tensor; 3]> {
        let (rows, tokens, width) = normed.dims3()?;
        let shape = (rows, tokens, self.heads, width / self.heads);
        // Ordered by head: query, key and value of head 0, then of head 1 …
        let fused = layer.query_key_value.forward(normed)?;
        let fused = fused.reshape((rows, tokens, self.heads, 3, width / self.heads))?;
        let part = |index: usize| {
            let part = fused.narrow(3, index, 1)?.squeeze(3)?;
            match &layer.parts[index] {
                Some(change) => part + change.forward(normed)?.reshape(shape)?,
                None => Ok(part),
            }
        };
        Ok([part(0)?, part(1)?, part(2)?])
    }
}

impl Layer {
    fn new(made: &mut Maker<'_>, index: usize, layer: &phi::Layer) -> Result<Self> {
        let name = format!("model.layers.{index}");
        let attention = format!("{name}.self_attn");
        let lm = &made.model.config().lm;
        let (width, hidden) = (lm.hidden_size, lm.intermediate_size);
        let [query_key_value, dense, fc1, fc2] = layer.matrices();
        let targets = made.options.targets.clone();
        let is_target = |part: &str| targets.iter().any(|target| target == part);
        let part = |made: &mut Maker<'_>, part: &str| {
            let module = format!("{attention}.{part}");
            is_target(part).then(|| made.change(&module, width, width)).transpose()
        };
        let adapted = |made: &mut Maker<'_>, layer, module: &str, sizes| {
            let is_changed = module.rsplit('.').next().is_some_and(is_target);
            made.adapted(layer, is_changed.then_some(module), sizes)
        };
        Ok(Self {
            norm: made.layer_norm(&format!("{name}.input_layernorm"), layer.norm())?,
            query_norm: made.layer_norm(&format!("{attention}.q_layernorm"), layer.query_norm())?,
            key_norm: made.layer_norm(&format!("{attention}.k_layernorm"), layer.key_norm())?,
            post_norm: made.rms_norm(&format!("{name}.post_layernorm"), layer.post_norm())?,
            parts: [part(made, "q_proj")?, part(made, "k_proj")?, part(made, "v_proj")?],
            query_key_value: adapted(
                made,
                query_key_value,
                &format!("{attention}.query_key_value"),
                (width, 3 * width),
            )?,
            dense: adapted(made, dense, &format!("{attention}.dense"), (width, width))?,
            fc1: adapted(made, fc1, &format!("{name}.mlp.fc1"), (width, hidden))?,
            fc2: adapted(made, fc2, &format!("{name}.mlp.fc2"), (hidden, width))?,
        })
    }
}
