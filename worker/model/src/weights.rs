//! Named tensors, handed out once and checked: the only way weights reach a network.
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    DType, Device, Shape, Tensor,
    quantized::{GgmlDType, QTensor},
};

use crate::{
    inventory::{TensorKind, TensorSpec},
    linear::{Linear, TokenTable},
};

/// A model tensor is missing, has another shape, or could not be moved to the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Nobody supplied it.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// Full canonical name.
        name: String,
    },
    /// It has other dimensions than the configuration asks for.
    #[error("tensor `{name}` has shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// Full canonical name.
        name: String,
        /// Dimensions the configuration asks for.
        expected: Vec<usize>,
        /// Dimensions it has.
        found: Vec<usize>,
    },
    /// Conversion or transfer failed.
    #[error("tensor `{name}` could not be prepared")]
    Backend {
        /// Full canonical name.
        name: String,
        /// What the backend said.
        #[source]
        source: candle_core::Error,
    },
}

/// A view over named tensors below a prefix; cheap to clone.
///
/// Names are canonical (`visual_encoder.*`, `Qformer.bert.*`, `llama_model.*`, `itc.*` …). Every
/// request states the expected shape. What nobody asked for can be listed with
/// [`Weights::unread`].
#[derive(Clone)]
pub struct Weights {
    source: Arc<Source>,
    prefix: String,
    device: Device,
}

enum Source {
    Stored {
        tensors: HashMap<String, Stored>,
        read: Mutex<BTreeSet<String>>,
    },
    /// Answers every request with zeros that take no memory, and writes it down.
    Recording(Mutex<Vec<TensorSpec>>),
}

#[derive(Clone)]
enum Stored {
    Dense(Tensor),
    Quantised(Arc<QTensor>),
}

impl Weights {
    /// Weights held as plain tensors of any float type, on any device.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, device: &Device) -> Self {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, Stored::Dense(tensor))).collect();
        Self::over(tensors, device)
    }

    /// Weights held as GGUF tensors. Block-quantised matrices stay as they are and are multiplied
    /// in that form; everything else is widened when it is asked for.
    pub fn from_qtensors(tensors: impl IntoIterator<Item = (String, QTensor)>, device: &Device) -> Self {
        let tensors =
            tensors.into_iter().map(|(name, tensor)| (name, Stored::Quantised(Arc::new(tensor)))).collect();
        Self::over(tensors, device)
    }

    fn over(tensors: HashMap<String, Stored>, device: &Device) -> Self {
        Self {
            source: Arc::new(Source::Stored { tensors, read: Mutex::default() }),
            prefix: String::new(),
            device: device.clone(),
        }
    }

    /// Weights that exist only as shapes, for deriving the list of what a model needs.
    pub(crate) fn recording() -> Self {
        Self {
            source: Arc::new(Source::Recording(Mutex::default())),
            prefix: String::new(),
            device: Device::Cpu,
        }
    }

    /// What a recording view was asked for, in order.
    pub(crate) fn recorded(&self) -> Vec<TensorSpec> {
        match &*self.source {
            Source::Recording(log) => log.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Source::Stored { .. } => Vec::new(),
        }
    }

    /// The view below one more name part; parts are joined with dots.
    #[must_use]
    pub fn pp(&self, part: impl std::fmt::Display) -> Self {
        Self {
            source: Arc::clone(&self.source),
            prefix: self.full(&part.to_string()),
            device: self.device.clone(),
        }
    }

    /// Where the tensors are put.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor that takes part in f32 arithmetic (norms, biases, positions, queries).
    pub fn tensor(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, WeightError> {
        let name = self.full(name);
        match self.take(&name, shape.into(), TensorKind::Float)? {
            Stored::Dense(tensor) => tensor.to_dtype(DType::F32).and_then(|t| t.to_device(&self.device)),
            Stored::Quantised(tensor) => tensor.dequantize(&self.device).and_then(|t| t.to_dtype(DType::F32)),
        }
        .map_err(|source| WeightError::Backend { name, source })
    }

    /// The linear layer `name` with its bias: weight `(outputs, inputs)`, bias `(outputs)`.
    pub fn linear(&self, inputs: usize, outputs: usize, name: &str) -> Result<Linear, WeightError> {
        let layer = self.pp(name);
        let bias = layer.tensor(outputs, "bias")?;
        layer.linear_with_bias(inputs, outputs, Some(bias))
    }

    /// The matrix `weight` of this view with a bias made by the caller.
    pub(crate) fn linear_with_bias(
        &self,
        inputs: usize,
        outputs: usize,
        bias: Option<Tensor>,
    ) -> Result<Linear, WeightError> {
        let name = self.full("weight");
        match self.take(&name, Shape::from((outputs, inputs)), TensorKind::Matrix)? {
            Stored::Quantised(weight) if is_block_quantised(weight.dtype()) => {
                Linear::quantised(weight, bias)
            }
            stored => self.dense(&stored).map(|weight| Linear::dense(weight, bias)),
        }
        .map_err(|source| WeightError::Backend { name, source })
    }

    /// The matrix `weight` of a convolution whose stride is its kernel, as a linear layer over
    /// flattened patches: stored `(outputs, channels, side, side)`.
    pub(crate) fn patch_kernel(
        &self,
        (outputs, channels, side): (usize, usize, usize),
        bias: Tensor,
    ) -> Result<Linear, WeightError> {
        let name = self.full("weight");
        let shape = Shape::from((outputs, channels, side, side));
        let stored = self.take(&name, shape, TensorKind::Matrix)?;
        self.dense(&stored)
            .and_then(|weight| weight.reshape((outputs, channels * side * side)))
            .map(|weight| Linear::dense(weight, Some(bias)))
            .map_err(|source| WeightError::Backend { name, source })
    }

    /// The table `weight` of this view, one row per token.
    pub(crate) fn token_table(&self, rows: usize, width: usize) -> Result<TokenTable, WeightError> {
        let name = self.full("weight");
        match self.take(&name, Shape::from((rows, width)), TensorKind::Matrix)? {
            Stored::Quantised(weight) if is_block_quantised(weight.dtype()) => {
                Ok(TokenTable::quantised(weight))
            }
            stored => self.dense(&stored).map(TokenTable::dense),
        }
        .map_err(|source| WeightError::Backend { name, source })
    }

    /// Names of tensors nobody has asked for so far, sorted.
    pub fn unread(&self) -> Vec<String> {
        match &*self.source {
            Source::Stored { tensors, read } => {
                let read = read.lock().unwrap_or_else(PoisonError::into_inner);
                let mut unread: Vec<_> =
                    tensors.keys().filter(|name| !read.contains(*name)).cloned().collect();
                unread.sort();
                unread
            }
            Source::Recording(_) => Vec::new(),
        }
    }

    /// A dense matrix in the type it is multiplied in: f32 on a CPU, which has no fast half
    /// arithmetic, and as stored elsewhere.
    fn dense(&self, stored: &Stored) -> candle_core::Result<Tensor> {
        let (tensor, kept) = match stored {
            Stored::Dense(tensor) => (tensor.clone(), tensor.dtype()),
            Stored::Quantised(tensor) => {
                let kept = match tensor.dtype() {
                    GgmlDType::F16 => DType::F16,
                    GgmlDType::BF16 => DType::BF16,
                    _ => DType::F32,
                };
                (tensor.dequantize(&self.device)?, kept)
            }
        };
        let dtype = if self.device.is_cpu() { DType::F32 } else { kept };
        tensor.to_device(&self.device)?.to_dtype(dtype)
    }

    fn take(&self, name: &str, shape: Shape, kind: TensorKind) -> Result<Stored, WeightError> {
        let stored = match &*self.source {
            Source::Recording(log) => {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(TensorSpec {
                    name: name.to_owned(),
                    shape: shape.dims().to_vec(),
                    kind,
                });
                // One zero seen through stride 0: a full-size inventory takes no memory.
                return Tensor::zeros((), DType::F32, &Device::Cpu)
                    .and_then(|zero| zero.broadcast_as(shape))
                    .map(Stored::Dense)
                    .map_err(|source| WeightError::Backend { name: name.to_owned(), source });
            }
            Source::Stored { tensors, read } => {
                let stored =
                    tensors.get(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() })?;
                read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                stored.clone()
            }
        };
        let found = match &stored {
            Stored::Dense(tensor) => tensor.dims(),
            Stored::Quantised(tensor) => tensor.shape().dims(),
        };
        if found != shape.dims() {
            return Err(WeightError::Shape {
                name: name.to_owned(),
                expected: shape.dims().to_vec(),
                found: found.to_vec(),
            });
        }
        Ok(stored)
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensors = match &*self.source {
            Source::Stored { tensors, .. } => tensors.len(),
            Source::Recording(_) => 0,
        };
        f.debug_struct("Weights")
            .field("prefix", &self.prefix)
            .field("tensors", &tensors)
            .field("device", &self.device)
            .finish()
    }
}

fn is_block_quantised(dtype: GgmlDType) -> bool {
    !matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}
