//! What learns, and the frozen layers that it is added to.

use candle_core::{DType, Module, Result, Tensor, Var};

use super::TrainOptions;
use crate::TinyGptV;
use crate::linear::{FrozenLinear, Linear};
use crate::norm::{LayerNorm, RmsNorm};
use crate::pack::{mixed, signed_unit};

use super::differentiable::{layer_norm, rms_norm};

/// Something that learns.
#[derive(Debug)]
pub(super) struct Trained {
    /// In the adapter's file, without peft's prefix.
    pub(super) name: String,
    pub(super) var: Var,
    /// Its steps, as a share of the schedule's.
    pub(super) pace: f64,
}

/// Makes layers and keeps a list of what in them learns.
pub(super) struct Maker<'a> {
    pub(super) options: &'a TrainOptions,
    pub(super) model: &'a TinyGptV,
    /// Of what is made now.
    pub(super) pace: f64,
    /// Everything that learns, in a fixed order.
    pub(super) trained: Vec<Trained>,
    /// The biases of norms that learn: peft keeps a module whole.
    pub(super) kept: Vec<(String, Tensor)>,
}

/// A linear layer that stays as it is, with a change that learns.
pub(super) struct Adapted {
    base: FrozenLinear,
    change: Option<Change>,
}

/// A low-rank change.
pub(super) struct Change {
    /// `(rank, inputs)`
    a: Tensor,
    /// `(outputs, rank)`
    b: Tensor,
    scaling: f64,
}

/// A linear layer that learns as a whole.
pub(super) struct Whole {
    /// `(outputs, inputs)`
    weight: Tensor,
    bias: Tensor,
}

/// LayerNorm, or RMSNorm where there is no bias.
pub(super) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Maker<'_> {
    /// A layer of the model, changed under the given name or not at all.
    pub(super) fn adapted(
        &mut self,
        layer: &Linear,
        module: Option<&str>,
        (inputs, outputs): (usize, usize),
    ) -> Result<Adapted> {
        let change = module.map(|module| self.change(module, inputs, outputs)).transpose()?;
        Ok(Adapted { base: FrozenLinear::of(layer)?, change })
    }

    /// A change that does nothing yet: random `A` as peft draws it, `B` zero.
    pub(super) fn change(&mut self, module: &str, inputs: usize, outputs: usize) -> Result<Change> {
        let (rank, device) = (self.options.rank, self.model.device());
        let start = mixed(self.options.seed ^ mixed(self.trained.len() as u64 + 1));
        let bound = 1.0 / (inputs as f32).sqrt();
        let draws = (0..(rank * inputs) as u64).map(|at| bound * signed_unit(mixed(start.wrapping_add(at))));
        let a = Tensor::from_vec(draws.collect::<Vec<f32>>(), (rank, inputs), device)?;
        let b = Tensor::zeros((outputs, rank), DType::F32, device)?;
        Ok(Change {
            a: self.learns(format!("{module}.lora_A.weight"), &a)?,
            b: self.learns(format!("{module}.lora_B.weight"), &b)?,
            scaling: self.options.alpha / rank as f64,
        })
    }

    /// A layer that learns as a whole, beginning with the model's.
    pub(super) fn whole(&mut self, module: &str, layer: &Linear) -> Result<Whole> {
        let (weight, bias) = layer.floats()?;
        let bias = bias.map_or_else(|| Tensor::zeros(weight.dim(0)?, DType::F32, weight.device()), Ok)?;
        Ok(Whole {
            weight: self.learns(format!("{module}.weight"), &weight)?,
            bias: self.learns(format!("{module}.bias"), &bias)?,
        })
    }

    /// A norm of the language model, whose weight learns if norms do.
    pub(super) fn layer_norm(&mut self, name: &str, base: &LayerNorm) -> Result<Norm> {
        let (weight, bias, eps) = base.parts();
        if self.options.norms {
            self.kept.push((format!("{name}.bias"), bias.clone()));
        }
        Ok(Norm { weight: self.norm_weight(name, weight)?, bias: Some(bias.clone()), eps })
    }

    /// As [`Maker::layer_norm`].
    pub(super) fn rms_norm(&mut self, name: &str, base: &RmsNorm) -> Result<Norm> {
        let (weight, eps) = base.parts();
        Ok(Norm { weight: self.norm_weight(name, weight)?, bias: None, eps })
    }

    fn norm_weight(&mut self, name: &str, weight: &Tensor) -> Result<Tensor> {
        if self.options.norms { self.learns(format!("{name}.weight"), weight) } else { Ok(weight.clone()) }
    }

    fn learns(&mut self, name: String, start: &Tensor) -> Result<Tensor> {
        let var = Var::from_tensor(start)?;
        let tensor = var.as_tensor().clone();
        self.trained.push(Trained { name, var, pace: self.pace });
        Ok(tensor)
    }
}

impl Adapted {
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.base.forward(xs)?;
        match &self.change {
            Some(change) => ys + change.forward(xs)?,
            None => Ok(ys),
        }
    }
}

impl Change {
    /// `(B, T, outputs)` of `(B, T, inputs)`.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, tokens, inputs) = xs.dims3()?;
        let narrow = xs.reshape((rows * tokens, inputs))?.matmul(&self.a.t()?)?;
        narrow.matmul(&(&self.b * self.scaling)?.t()?)?.reshape((rows, tokens, ()))
    }
}

impl Whole {
    /// `(B, T, outputs)` of `(B, T, inputs)`.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, tokens, inputs) = xs.dims3()?;
        let ys = xs.reshape((rows * tokens, inputs))?.matmul(&self.weight.t()?)?;
        ys.broadcast_add(&self.bias)?.reshape((rows, tokens, ()))
    }
}

impl Norm {
    /// A norm that does not learn.
    pub(super) fn frozen(base: &LayerNorm) -> Self {
        let (weight, bias, eps) = base.parts();
        Self { weight: weight.clone(), bias: Some(bias.clone()), eps }
    }

    /// Over the last dimension.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => layer_norm(xs, &self.weight, bias, self.eps),
            None => rms_norm(xs, &self.weight, self.eps),
        }
    }
}
