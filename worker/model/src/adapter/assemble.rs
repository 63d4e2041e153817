//! From a file full of names to an adapter that fits the model, or to the name of what does not.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{Adapter, AdapterConfig, AdapterError, LayerAdapter, LowRank};
use crate::checkpoint::{LoraHalf, Meaning, TensorSource, adapter_meaning};
use crate::norm::{LayerNorm, RmsNorm};
use crate::projector::Projector;
use crate::{ModelConfig, TinyGptV};

/// The norms that may be trained whole, as modules of the language model.
pub(super) const NORMS: [&str; 5] =
    ["input_layernorm", "post_layernorm", "q_layernorm", "k_layernorm", "final_layernorm"];

/// What an adapter may change, for messages.
const CHANGES: &str = "query_key_value, q_proj, k_proj, v_proj, dense, fc1 and fc2 of the language model's layers by \
                       LoRA, its norms, and both projections";

/// Above any that is trained; more would be no small change.
const MOST_RANK: usize = 4096;

/// Makes the adapter; refuses what it does not know.
pub(super) fn assemble(
    source: &dyn TensorSource,
    config: &AdapterConfig,
    model: &TinyGptV,
    digest: String,
) -> Result<Adapter, AdapterError> {
    let mut parts = Parts::new(source, config, model.config(), model.device());
    let phi = model.language();
    let mut layers = Vec::with_capacity(phi.layers().len());
    for (index, layer) in phi.layers().iter().enumerate() {
        let name = format!("llama_model.model.layers.{index}");
        let attention = format!("{name}.self_attn");
        layers.push(LayerAdapter {
            norm: parts.layer_norm(&format!("{name}.input_layernorm"), layer.norm())?,
            query_norm: parts.layer_norm(&format!("{attention}.q_layernorm"), layer.query_norm())?,
            key_norm: parts.layer_norm(&format!("{attention}.k_layernorm"), layer.key_norm())?,
            post_norm: parts.rms_norm(&format!("{name}.post_layernorm"), layer.post_norm())?,
            query_key_value: parts.attention(&attention)?,
            dense: parts.plain(&format!("{attention}.dense"), Width::Hidden, Width::Hidden)?,
            fc1: parts.plain(&format!("{name}.mlp.fc1"), Width::Hidden, Width::Intermediate)?,
            fc2: parts.plain(&format!("{name}.mlp.fc2"), Width::Intermediate, Width::Hidden)?,
        });
    }
    let final_norm = parts.layer_norm("llama_model.model.final_layernorm", phi.final_norm())?;
    let projector = parts.projector()?;
    parts.refuse_rest()?;
    if parts.bytes == 0 {
        return Err(AdapterError::Empty);
    }
    Ok(Adapter { digest, layers, final_norm, projector, bytes: parts.bytes })
}

#[derive(Clone, Copy)]
enum Width {
    Hidden,
    Intermediate,
}

/// The tensors of an adapter that have not been used yet.
struct Parts<'a> {
    source: &'a dyn TensorSource,
    config: &'a AdapterConfig,
    dimensions: &'a ModelConfig,
    device: &'a Device,
    lora: BTreeMap<(String, LoraHalf), String>,
    weights: BTreeMap<String, String>,
    bytes: u64,
}

impl<'a> Parts<'a> {
    fn new(
        source: &'a dyn TensorSource,
        config: &'a AdapterConfig,
        dimensions: &'a ModelConfig,
        device: &'a Device,
    ) -> Self {
        let (mut lora, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for key in source.headers().keys() {
            match adapter_meaning(key) {
                Meaning::Lora { module, half } => drop(lora.insert((module, half), key.clone())),
                Meaning::Weight(name) => drop(weights.insert(name, key.clone())),
                Meaning::Unneeded => {}
            }
        }
        Self { source, config, dimensions, device, lora, weights, bytes: 0 }
    }

    fn width(&self, width: Width) -> usize {
        match width {
            Width::Hidden => self.dimensions.lm.hidden_size,
            Width::Intermediate => self.dimensions.lm.intermediate_size,
        }
    }

    /// One tensor in f32 on the CPU; 0 in `wanted` stands for a rank of any size.
    fn read(&mut self, key: &str, wanted: &[usize]) -> Result<Tensor, AdapterError> {
        let found = self.source.headers().get(key).map_or(&[][..], |header| &header.shape);
        let fits = found.len() == wanted.len()
            && found.iter().zip(wanted).all(|(found, wanted)| match wanted {
                0 => (1..=MOST_RANK).contains(found),
                wanted => found == wanted,
            });
        if !fits {
            return Err(AdapterError::Shape {
                key: key.to_owned(),
                found: found.to_vec(),
                wanted: wanted.to_vec(),
            });
        }
        let shape = found.to_vec();
        let values = self.source.read(key)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(AdapterError::NotFinite { key: key.to_owned() });
        }
        self.bytes += 4 * values.len() as u64;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn weight(&mut self, name: &str, wanted: &[usize]) -> Result<Option<Tensor>, AdapterError> {
        let Some(key) = self.weights.remove(name) else { return Ok(None) };
        Ok(Some(self.read(&key, wanted)?.to_device(self.device)?))
    }

    fn layer_norm(&mut self, name: &str, base: &LayerNorm) -> Result<Option<LayerNorm>, AdapterError> {
        let weight = self.weight(&format!("{name}.weight"), &[base.width()])?;
        let bias = self.weight(&format!("{name}.bias"), &[base.width()])?;
        Ok((weight.is_some() || bias.is_some()).then(|| base.changed(weight, bias)))
    }

    fn rms_norm(&mut self, name: &str, base: &RmsNorm) -> Result<Option<RmsNorm>, AdapterError> {
        let weight = self.weight(&format!("{name}.weight"), &[base.width()])?;
        Ok(weight.map(|weight| base.changed(weight)))
    }

    /// `A` and the scaled `B` of a module, if the adapter changes it.
    fn halves(
        &mut self,
        module: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Option<(Tensor, Tensor)>, AdapterError> {
        let a = self.lora.remove(&(module.to_owned(), LoraHalf::A));
        let b = self.lora.remove(&(module.to_owned(), LoraHalf::B));
        let (a, b) = match (a, b) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) => (a, b),
            (Some(present), None) => {
                return Err(AdapterError::Half { present, missing: format!("{module}.lora_B.weight") });
            }
            (None, Some(present)) => {
                return Err(AdapterError::Half { present, missing: format!("{module}.lora_A.weight") });
            }
        };
        let a = self.read(&a, &[0, inputs])?;
        let rank = a.dim(0)?;
        let b = (self.read(&b, &[outputs, rank])? * self.config.scaling(rank))?;
        Ok(Some((a, b)))
    }

    fn plain(
        &mut self,
        module: &str,
        inputs: Width,
        outputs: Width,
    ) -> Result<Option<LowRank>, AdapterError> {
        let halves = self.halves(module, self.width(inputs), self.width(outputs))?;
        halves.map(|(a, b)| self.change(&a, &b)).transpose()
    }

    /// The change of the fused attention matrix, from a fused one or from those of queries, keys and values, or both.
    fn attention(&mut self, attention: &str) -> Result<Option<LowRank>, AdapterError> {
        let width = self.dimensions.lm.hidden_size;
        let (mut downs, mut ups) = (Vec::new(), Vec::new());
        if let Some((a, b)) = self.halves(&format!("{attention}.query_key_value"), width, 3 * width)? {
            downs.push(a);
            ups.push(b);
        }
        for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            if let Some((a, b)) = self.halves(&format!("{attention}.{part}"), width, width)? {
                downs.push(a);
                ups.push(self.among_heads(&b, index)?);
            }
        }
        if downs.is_empty() {
            return Ok(None);
        }
        self.change(&Tensor::cat(&downs, 0)?, &Tensor::cat(&ups, 1)?).map(Some)
    }

    /// Rows of queries, keys or values (`index` 0, 1, 2) where the fused matrix has them: head by head.
    fn among_heads(&self, b: &Tensor, index: usize) -> Result<Tensor, AdapterError> {
        let (rows, rank) = b.dims2()?;
        let lm = &self.dimensions.lm;
        let b = b.reshape((lm.num_heads, 1, lm.head_dim(), rank))?;
        let zeros = b.zeros_like()?;
        let parts: Vec<&Tensor> = (0..3).map(|part| if part == index { &b } else { &zeros }).collect();
        Ok(Tensor::cat(&parts, 1)?.reshape((3 * rows, rank))?)
    }

    fn change(&self, a: &Tensor, b: &Tensor) -> Result<LowRank, AdapterError> {
        Ok(LowRank::new(&a.to_device(self.device)?, &b.to_device(self.device)?)?)
    }

    /// Both projections, as the reference's files have them; one alone means nothing.
    fn projector(&mut self) -> Result<Option<Projector>, AdapterError> {
        let names = ["llama_proj.weight", "llama_proj.bias", "llama_proj2.weight", "llama_proj2.bias"];
        let present = names.iter().find_map(|name| self.weights.get(*name).cloned());
        let Some(present) = present else { return Ok(None) };
        let (queries, hidden) = (self.dimensions.qformer.hidden_size, self.dimensions.projection.hidden);
        let outputs = self.dimensions.lm.hidden_size;
        let shapes = [vec![hidden, queries], vec![hidden], vec![outputs, hidden], vec![outputs]];
        let mut tensors = Vec::with_capacity(4);
        for (name, shape) in names.iter().zip(&shapes) {
            let missing = || AdapterError::Half { present: present.clone(), missing: (*name).to_owned() };
            tensors.push(self.weight(name, shape)?.ok_or_else(missing)?);
        }
        let [first, first_bias, second, second_bias] =
            <[Tensor; 4]>::try_from(tensors).expect("four tensors were read");
        Ok(Some(Projector::new((&first, first_bias), (&second, second_bias))?))
    }

    /// A change that is left out would change every answer, so nothing may be left.
    fn refuse_rest(&self) -> Result<(), AdapterError> {
        match self.lora.values().chain(self.weights.values()).next() {
            Some(key) => Err(AdapterError::UnknownTarget { key: key.clone(), changes: CHANGES }),
            None => Ok(()),
        }
    }
}
