//! The tensors of an adapter's file, taken out one by one and checked.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{AdapterConfig, AdapterError, LowRank};
use crate::checkpoint::{LoraHalf, Meaning, TensorSource, adapter_meaning};

/// What an adapter may change, for messages.
const CHANGES: &str = "query_key_value, q_proj, k_proj, v_proj, dense, fc1 and fc2 of the language model's layers and the \
                       linear layers of the Q-Former by LoRA, the language model's norms, and both projections";

/// Above any that is trained; more would be no small change.
const MOST_RANK: usize = 4096;

/// The tensors of an adapter that have not been used yet.
pub(super) struct Parts<'a> {
    source: &'a dyn TensorSource,
    config: &'a AdapterConfig,
    device: &'a Device,
    lora: BTreeMap<(String, LoraHalf), String>,
    weights: BTreeMap<String, String>,
    /// Of what has been used.
    pub(super) bytes: u64,
}

impl<'a> Parts<'a> {
    pub(super) fn new(source: &'a dyn TensorSource, config: &'a AdapterConfig, device: &'a Device) -> Self {
        let (mut lora, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for key in source.headers().keys() {
            match adapter_meaning(key) {
                Meaning::Lora { module, half } => drop(lora.insert((module, half), key.clone())),
                Meaning::Weight(name) => drop(weights.insert(name, key.clone())),
                Meaning::Unneeded => {}
            }
        }
        Self { source, config, device, lora, weights, bytes: 0 }
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

    /// A tensor that is there whole, on the device.
    pub(super) fn weight(&mut self, name: &str, wanted: &[usize]) -> Result<Option<Tensor>, AdapterError> {
        let Some(key) = self.weights.remove(name) else { return Ok(None) };
        Ok(Some(self.read(&key, wanted)?.to_device(self.device)?))
    }

    /// Tensors that mean nothing without each other.
    pub(super) fn together<const N: usize>(
        &mut self,
        wanted: [(&str, &[usize]); N],
    ) -> Result<Option<[Tensor; N]>, AdapterError> {
        let present = wanted.iter().find_map(|(name, _)| self.weights.get(*name).cloned());
        let Some(present) = present else { return Ok(None) };
        let mut tensors = Vec::with_capacity(N);
        for (name, shape) in wanted {
            let missing = || AdapterError::Half { present: present.clone(), missing: name.to_owned() };
            tensors.push(self.weight(name, shape)?.ok_or_else(missing)?);
        }
        Ok(tensors.try_into().ok())
    }

    /// `A` and the scaled `B` of a module, if the adapter changes it.
    pub(super) fn halves(
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

    /// The change of a module, if the adapter changes it.
    pub(super) fn low_rank(
        &mut self,
        module: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Option<LowRank>, AdapterError> {
        self.halves(module, inputs, outputs)?.map(|(a, b)| self.change(&a, &b)).transpose()
    }

    pub(super) fn change(&self, a: &Tensor, b: &Tensor) -> Result<LowRank, AdapterError> {
        Ok(LowRank::new(&a.to_device(self.device)?, &b.to_device(self.device)?)?)
    }

    /// A change that is left out would change every answer, so nothing may be left.
    pub(super) fn refuse_rest(&self) -> Result<(), AdapterError> {
        match self.lora.values().chain(self.weights.values()).next() {
            Some(key) => Err(AdapterError::UnknownTarget { key: key.clone(), changes: CHANGES }),
            None => Ok(()),
        }
    }
}
