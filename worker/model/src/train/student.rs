//! The language model with gradients: as in `phi`, for whole sequences at once and without a cache.

use candle_core::{D, Module, Result, Tensor};

use super::optimizer::variable;
use super::{TrainError, TrainOptions, Trained};
use crate::adapter::TARGETS;
use crate::attention::causal_mask;
use crate::error::DuringStep;
use crate::linear::FrozenLinear;
use crate::norm::{LayerNorm, RmsNorm};
use crate::pack::{mixed, signed_unit};
use crate::phi;
use crate::rotary::Rotary;
use crate::{PhiConfig, TinyGptV};

/// The mirror.
pub(super) struct Student {
    layers: Vec<Layer>,
    norm: Norm,
    head: FrozenLinear,
    rotary: Rotary,
    heads: usize,
    /// Everything that learns, in a fixed order.
    pub(super) trained: Vec<Trained>,
    /// The biases of norms that learn: peft keeps a module whole.
    pub(super) kept: Vec<(String, Tensor)>,
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

/// A linear layer with what it learns.
struct Adapted {
    base: FrozenLinear,
    change: Option<Change>,
}

struct Change {
    /// `(rank, inputs)`
    a: Tensor,
    /// `(outputs, rank)`
    b: Tensor,
    scaling: f64,
}

/// LayerNorm, or RMSNorm where there is no bias.
struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Student {
    pub(super) fn new(model: &TinyGptV, options: &TrainOptions) -> std::result::Result<Self, TrainError> {
        if let Some(target) = options.targets.iter().find(|target| !TARGETS.contains(&target.as_str())) {
            return Err(TrainError::Target { target: target.clone(), known: TARGETS.join(", ") });
        }
        let config = &model.config().lm;
        let mut made = Maker { options, config, model, trained: Vec::new(), kept: Vec::new() };
        let phi = model.language();
        let build = |made: &mut Maker<'_>| -> Result<Self> {
            let mut layers = Vec::with_capacity(config.num_layers);
            for (index, layer) in phi.layers().iter().enumerate() {
                layers.push(made.layer(index, layer)?);
            }
            Ok(Self {
                layers,
                norm: made.layer_norm("model.final_layernorm", phi.final_norm())?,
                head: FrozenLinear::of(phi.head())?,
                rotary: phi.rotary().clone(),
                heads: config.num_heads,
                trained: Vec::new(),
                kept: Vec::new(),
            })
        };
        let student = build(&mut made).during("the making of what learns")?;
        Ok(Self { trained: made.trained, kept: made.kept, ..student })
    }

    /// Logits `(places, vocab)` at `places` of the flattened positions of `stream` `(B, T, H)`.
    pub(super) fn logits(&self, stream: &Tensor, places: &Tensor) -> Result<Tensor> {
        let (_, tokens, width) = stream.dims3()?;
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let rotary = self.rotary.rows(&positions)?;
        let mask = causal_mask(0, tokens, stream.device())?;
        let mut stream = stream.clone();
        for layer in &self.layers {
            let normed = layer.norm.forward(&stream)?;
            let queries_keys_values = self.attention_inputs(layer, &normed)?;
            let [queries, keys, values] = queries_keys_values;
            let queries = rotary.turn(&layer.query_norm.forward(&queries)?.transpose(1, 2)?)?;
            let keys = rotary.turn(&layer.key_norm.forward(&keys)?.transpose(1, 2)?)?;
            let values = values.transpose(1, 2)?.contiguous()?;
            let scale = 1.0 / (queries.dim(3)? as f64).sqrt();
            let scores = (queries * scale)?.contiguous()?.matmul(&keys.t()?.contiguous()?)?;
            let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let seen = weights.matmul(&values)?.transpose(1, 2)?.flatten_from(2)?;
            let attended = layer.post_norm.forward(&layer.dense.forward(&seen)?)?;
            let fed = layer.fc2.forward(&layer.fc1.forward(&normed)?.gelu()?)?;
            stream = ((attended + fed)? + stream)?;
        }
        let chosen = stream.reshape(((), width))?.index_select(places, 0)?;
        self.head.forward(&self.norm.forward(&chosen)?)
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

/// Makes layers and keeps a list of what in them learns.
struct Maker<'a> {
    options: &'a TrainOptions,
    config: &'a PhiConfig,
    model: &'a TinyGptV,
    trained: Vec<Trained>,
    kept: Vec<(String, Tensor)>,
}

impl Maker<'_> {
    fn layer(&mut self, index: usize, layer: &phi::Layer) -> Result<Layer> {
        let name = format!("model.layers.{index}");
        let attention = format!("{name}.self_attn");
        let (width, hidden) = (self.config.hidden_size, self.config.intermediate_size);
        let [query_key_value, dense, fc1, fc2] = layer.matrices();
        let part = |made: &mut Self, part: &str| made.change(&format!("{attention}.{part}"), width, width);
        Ok(Layer {
            norm: self.layer_norm(&format!("{name}.input_layernorm"), layer.norm())?,
            query_norm: self.layer_norm(&format!("{attention}.q_layernorm"), layer.query_norm())?,
            key_norm: self.layer_norm(&format!("{attention}.k_layernorm"), layer.key_norm())?,
            post_norm: self.rms_norm(&format!("{name}.post_layernorm"), layer.post_norm())?,
            parts: [part(self, "q_proj")?, part(self, "k_proj")?, part(self, "v_proj")?],
            query_key_value: Adapted {
                base: FrozenLinear::of(query_key_value)?,
                change: self.change(&format!("{attention}.query_key_value"), width, 3 * width)?,
            },
            dense: Adapted {
                base: FrozenLinear::of(dense)?,
                change: self.change(&format!("{attention}.dense"), width, width)?,
            },
            fc1: Adapted {
                base: FrozenLinear::of(fc1)?,
                change: self.change(&format!("{name}.mlp.fc1"), width, hidden)?,
            },
            fc2: Adapted {
                base: FrozenLinear::of(fc2)?,
                change: self.change(&format!("{name}.mlp.fc2"), hidden, width)?,
            },
        })
    }

    /// A change that does nothing yet: random `A` as peft draws it, `B` zero.
    fn change(&mut self, module: &str, inputs: usize, outputs: usize) -> Result<Option<Change>> {
        let target = module.rsplit('.').next().unwrap_or(module);
        if !self.options.targets.iter().any(|chosen| chosen == target) {
            return Ok(None);
        }
        let (rank, device) = (self.options.rank, self.model.device());
        let start = mixed(self.options.seed ^ mixed(self.trained.len() as u64 + 1));
        let bound = 1.0 / (inputs as f32).sqrt();
        let draws = (0..(rank * inputs) as u64).map(|at| bound * signed_unit(mixed(start.wrapping_add(at))));
        let a = Tensor::from_vec(draws.collect::<Vec<f32>>(), (rank, inputs), device)?;
        let b = Tensor::zeros((outputs, rank), candle_core::DType::F32, device)?;
        Ok(Some(Change {
            a: self.learns(format!("{module}.lora_A.weight"), &a)?,
            b: self.learns(format!("{module}.lora_B.weight"), &b)?,
            scaling: self.options.alpha / rank as f64,
        }))
    }

    fn layer_norm(&mut self, name: &str, base: &LayerNorm) -> Result<Norm> {
        let (weight, bias, eps) = base.parts();
        if self.options.norms {
            self.kept.push((format!("{name}.bias"), bias.clone()));
        }
        Ok(Norm { weight: self.norm_weight(name, weight)?, bias: Some(bias.clone()), eps })
    }

    fn rms_norm(&mut self, name: &str, base: &RmsNorm) -> Result<Norm> {
        let (weight, eps) = base.parts();
        Ok(Norm { weight: self.norm_weight(name, weight)?, bias: None, eps })
    }

    fn norm_weight(&mut self, name: &str, weight: &Tensor) -> Result<Tensor> {
        if self.options.norms { self.learns(format!("{name}.weight"), weight) } else { Ok(weight.clone()) }
    }

    fn learns(&mut self, name: String, start: &Tensor) -> Result<Tensor> {
        let var = variable(start)?;
        let tensor = var.as_tensor().clone();
        self.trained.push((name, var));
        Ok(tensor)
    }
}

impl Adapted {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.base.forward(xs)?;
        match &self.change {
            Some(change) => ys + change.forward(xs)?,
            None => Ok(ys),
        }
    }
}

impl Change {
    /// `(B, T, outputs)` of `(B, T, inputs)`.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, tokens, inputs) = xs.dims3()?;
        let narrow = xs.reshape((rows * tokens, inputs))?.matmul(&self.a.t()?)?;
        (narrow.matmul(&self.b.t()?)? * self.scaling)?.reshape((rows, tokens, ()))
    }
}

impl Norm {
    /// Over the last dimension.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let centred = match &self.bias {
            Some(_) => xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?,
            None => xs.clone(),
        };
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)?;
        match &self.bias {
            Some(bias) => normed.broadcast_add(bias),
            None => Ok(normed),
        }
    }
}
