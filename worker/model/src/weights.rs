//! Named tensors, handed out once and checked: the only way weights reach a network.
use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    DType, Device, Shape, Tensor,
    quantized::{GgmlDType, QStorage, QTensor},
};

use crate::{
    bundle::{StoredTensor, WeightsFile},
    inventory::{TensorKind, TensorSpec},
    linear::{Linear, TokenTable},
    own_kernels::OwnKernels,
    packed::Packed,
    weight_memory::{HoldsWeights, WeightMemory},
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
    memory: Arc<Mutex<WeightMemory>>,
    prefix: String,
    device: Device,
    kernels: OwnKernels,
}

enum Source {
    Tensors {
        tensors: HashMap<String, Tensor>,
        read: Mutex<BTreeSet<String>>,
    },
    /// Read when asked for, so that what is not used is not loaded, and nothing is held twice.
    File {
        file: WeightsFile,
        read: Mutex<BTreeSet<String>>,
    },
    /// Answers every request with zeros that take no memory, and writes it down.
    Recording(Mutex<Vec<TensorSpec>>),
}

/// A tensor as its source has it.
enum Stored<'a> {
    /// Zeros that take no memory, for a recording: nothing may be made of them that does.
    Shape(Tensor),
    Dense(Tensor),
    InFile(StoredTensor<'a>),
}

/// A matrix ready to be multiplied.
enum Made {
    Packed(Packed),
    Dense(Tensor),
    Quantised(QTensor),
}

impl Weights {
    /// Weights held as plain tensors of any float type, on any device.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, device: &Device) -> Self {
        Self::over(Source::Tensors { tensors, read: Mutex::default() }, device)
    }

    /// Weights in a file. Block-quantised matrices stay as they are and are multiplied in that form;
    /// everything else is widened where the device has no arithmetic for it.
    pub(crate) fn from_file(file: WeightsFile, device: &Device) -> Self {
        Self::over(Source::File { file, read: Mutex::default() }, device)
    }

    fn over(source: Source, device: &Device) -> Self {
        Self {
            source: Arc::new(source),
            memory: Arc::default(),
            prefix: String::new(),
            device: device.clone(),
            kernels: OwnKernels::NONE,
        }
    }

    /// The same weights, for a network that uses these kernels of ours on its GPU.
    #[must_use]
    pub fn with_kernels(self, kernels: OwnKernels) -> Self {
        Self { kernels, ..self }
    }

    /// Which kernels of ours the network uses.
    pub(crate) fn kernels(&self) -> OwnKernels {
        self.kernels
    }

    /// Weights that exist only as shapes, for deriving the list of what a model needs.
    pub(crate) fn recording() -> Self {
        Self::over(Source::Recording(Mutex::default()), &Device::Cpu)
    }

    /// What a recording view was asked for, in order.
    pub(crate) fn recorded(&self) -> Vec<TensorSpec> {
        match &*self.source {
            Source::Recording(log) => log.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Source::Tensors { .. } | Source::File { .. } => Vec::new(),
        }
    }

    /// The view below one more name part; parts are joined with dots.
    #[must_use]
    pub fn pp(&self, part: impl std::fmt::Display) -> Self {
        Self {
            source: Arc::clone(&self.source),
            memory: Arc::clone(&self.memory),
            prefix: self.full(&part.to_string()),
            device: self.device.clone(),
            kernels: self.kernels,
        }
    }

    /// Where the tensors are put.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A tensor that takes part in f32 arithmetic (norms, biases, positions, queries).
    pub fn tensor(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, WeightError> {
        let name = self.full(name);
        self.take(&name, shape.into(), TensorKind::Float, |stored| match stored {
            Stored::Shape(tensor) => Ok(tensor),
            Stored::Dense(tensor) => tensor.to_dtype(DType::F32)?.to_device(&self.device),
            Stored::InFile(stored) => widened(&stored, &self.device),
        })
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
        self.take(&name, Shape::from((outputs, inputs)), TensorKind::Matrix, |stored| {
            let layer = match self.matrix(stored)? {
                Made::Packed(weight) => Linear::packed(weight, bias),
                Made::Dense(weight) => Linear::dense(weight, bias),
                Made::Quantised(weight) => Linear::quantised(weight.into(), bias)?,
            };
            Ok(layer.with_kernels(self.kernels))
        })
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
        self.take(&name, shape, TensorKind::Matrix, |stored| {
            let flat = (outputs, channels * side * side);
            let layer = match self.matrix(stored)? {
                Made::Packed(weight) => Linear::packed(weight, Some(bias)),
                Made::Dense(weight) => Linear::dense(weight.reshape(flat)?, Some(bias)),
                Made::Quantised(weight) => {
                    Linear::dense(weight.dequantize(&self.device)?.reshape(flat)?, Some(bias))
                }
            };
            Ok(layer.with_kernels(self.kernels))
        })
    }

    /// The table `weight` of this view, one row per token.
    pub(crate) fn token_table(&self, rows: usize, width: usize) -> Result<TokenTable, WeightError> {
        let name = self.full("weight");
        self.take(&name, Shape::from((rows, width)), TensorKind::Matrix, |stored| {
            Ok(match self.matrix(stored)? {
                Made::Packed(table) => TokenTable::Packed(table),
                Made::Dense(table) => TokenTable::Dense(table),
                Made::Quantised(table) => TokenTable::Quantised(table.into()),
            })
        })
    }

    /// Bytes of everything that was handed out.
    pub fn memory(&self) -> WeightMemory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names of tensors nobody has asked for so far, sorted.
    pub fn unread(&self) -> Vec<String> {
        let (names, read): (Vec<&str>, _) = match &*self.source {
            Source::Tensors { tensors, read } => (tensors.keys().map(String::as_str).collect(), read),
            Source::File { file, read } => (file.names().collect(), read),
            Source::Recording(_) => return Vec::new(),
        };
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = names.into_iter().filter(|name| !read.contains(*name));
        let mut unread: Vec<String> = unread.map(str::to_owned).collect();
        unread.sort();
        unread
    }

    /// A matrix in the form in which it is multiplied: packed on a CPU, and as stored on a GPU.
    fn matrix(&self, stored: Stored<'_>) -> candle_core::Result<Made> {
        Ok(match stored {
            Stored::Shape(zeros) => Made::Dense(zeros),
            Stored::Dense(tensor) if self.device.is_cpu() => Made::Packed(Packed::of_tensor(&tensor)?),
            Stored::Dense(tensor) => Made::Dense(tensor.to_device(&self.device)?),
            Stored::InFile(stored) if self.device.is_cpu() => match Packed::of_stored(&stored)? {
                Some(packed) => Made::Packed(packed),
                None => Made::Packed(Packed::of_tensor(&widened(&stored, &self.device)?)?),
            },
            Stored::InFile(stored) => match float_type(stored.dtype) {
                Some(dtype) => Made::Dense(floats(&stored, dtype, &self.device)?),
                None => Made::Quantised(quantised(&stored, &self.device)?),
            },
        })
    }

    /// Finds a tensor, checks its shape, and has it made into what the network wants.
    fn take<T: HoldsWeights>(
        &self,
        name: &str,
        shape: Shape,
        kind: TensorKind,
        make: impl FnOnce(Stored<'_>) -> candle_core::Result<T>,
    ) -> Result<T, WeightError> {
        let backend = |source| WeightError::Backend { name: name.to_owned(), source };
        let missing = || WeightError::Missing { name: name.to_owned() };
        let (stored, found, read) = match &*self.source {
            Source::Recording(log) => {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(TensorSpec {
                    name: name.to_owned(),
                    shape: shape.dims().to_vec(),
                    kind,
                });
                // One zero seen through stride 0: a full-size inventory takes no memory.
                let zeros =
                    Tensor::zeros((), DType::F32, &Device::Cpu).and_then(|zero| zero.broadcast_as(shape));
                return zeros.and_then(|zeros| make(Stored::Shape(zeros))).map_err(backend);
            }
            Source::Tensors { tensors, read } => {
                let tensor = tensors.get(name).ok_or_else(missing)?;
                (Stored::Dense(tensor.clone()), tensor.dims(), read)
            }
            Source::File { file, read } => {
                let tensor = file.tensor(name).ok_or_else(missing)?;
                let found = tensor.shape;
                (Stored::InFile(tensor), found, read)
            }
        };
        if found != shape.dims() {
            return Err(WeightError::Shape {
                name: name.to_owned(),
                expected: shape.dims().to_vec(),
                found: found.to_vec(),
            });
        }
        read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        let made = make(stored).map_err(backend)?;
        if let Source::File { file, .. } = &*self.source {
            file.release(name);
        }
        let bytes = made.weight_bytes();
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).count(name, bytes);
        Ok(made)
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tensors = match &*self.source {
            Source::Tensors { tensors, .. } => tensors.len(),
            Source::File { file, .. } => file.names().count(),
            Source::Recording(_) => 0,
        };
        f.debug_struct("Weights")
            .field("prefix", &self.prefix)
            .field("tensors", &tensors)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// The tensor in the backend's own form for blocks.
fn quantised(stored: &StoredTensor<'_>, device: &Device) -> candle_core::Result<QTensor> {
    // Copied, because blocks may lie at any address in a file that is part of the program.
    let storage = QStorage::from_data(Cow::Owned(stored.bytes.to_vec()), device, stored.dtype)?;
    QTensor::new(storage, stored.shape)
}

/// The type of a tensor that is not stored in blocks.
fn float_type(stored: GgmlDType) -> Option<DType> {
    match stored {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// A tensor of floats as it is stored: its bytes go to the device once. The backend's way for blocks would bring those of a GPU back
/// and widen them on one core.
fn floats(stored: &StoredTensor<'_>, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_raw_buffer(stored.bytes, dtype, stored.shape, device)
}

/// The tensor in f32.
pub(crate) fn widened(stored: &StoredTensor<'_>, device: &Device) -> candle_core::Result<Tensor> {
    match float_type(stored.dtype) {
        Some(dtype) => floats(stored, dtype, device)?.to_dtype(DType::F32),
        None => quantised(stored, device)?.dequantize(device)?.to_dtype(DType::F32),
    }
}
