//! Our own matrix products, where the network runs on a CPU.
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, bail,
    quantized::GgmlDType,
};
use captionfleet_kernels::{Activation, Backend, Epilogue, FeedForward, Format, Layer, PackedMatrix, Rows};

use crate::{bundle::StoredTensor, cpu_values::contiguous};

const NAME: &str = "a product";

/// The one copy of a matrix `(outputs, inputs)`, arranged for products.
#[derive(Clone, Debug)]
pub(crate) struct Packed(Arc<PackedMatrix>);

impl Packed {
    /// Packs a stored tensor whose first dimension is the outputs. `None` for a type that the products do not know.
    pub(crate) fn of_stored(stored: &StoredTensor<'_>) -> Result<Option<Self>> {
        let Some(format) = format_of(stored.dtype) else { return Ok(None) };
        let outputs = stored.shape.first().copied().unwrap_or(0);
        let inputs = stored.shape.iter().skip(1).product();
        Ok(Some(Self::pack(format, stored.bytes, outputs, inputs)?))
    }

    /// Packs a tensor of floats in f32.
    pub(crate) fn of_tensor(tensor: &Tensor) -> Result<Self> {
        let outputs = tensor.dim(0)?;
        let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::pack(Format::F32, &bytes, outputs, values.len() / outputs.max(1))
    }

    fn pack(format: Format, bytes: &[u8], outputs: usize, inputs: usize) -> Result<Self> {
        PackedMatrix::pack(format, bytes, outputs, inputs)
            .map(|matrix| Self(Arc::new(matrix)))
            .map_err(Error::wrap)
    }

    /// What multiplies it.
    pub(crate) fn backend(&self, usual: Rows) -> Backend {
        self.0.backend(usual)
    }

    /// `xs Wᵀ + bias` `(rows, outputs)` for `xs` `(rows, inputs)`, and what follows it.
    pub(crate) fn product(
        &self,
        usual: Rows,
        xs: &Tensor,
        bias: Option<&Tensor>,
        then: Then<'_>,
    ) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        let product = |activation| Product { matrix: &self.0, usual, bias, activation };
        match then {
            Then::Nothing => xs.apply_op1_no_bwd(&product(None)),
            Then::Activate(activation) => xs.apply_op1_no_bwd(&product(Some(activation))),
            Then::Add(residual) => xs.apply_op2_no_bwd(&residual.contiguous()?, &product(None)),
        }
    }

    /// `down(activation(up(xs)))`, added to `residual` `(rows, outputs)`: two products, without the values between them as a tensor.
    pub(crate) fn feed_forward(
        usual: Rows,
        [(up, up_bias), (down, down_bias)]: [(&Self, Option<&Tensor>); 2],
        activation: Activation,
        residual: &Tensor,
        xs: &Tensor,
    ) -> Result<Tensor> {
        let layers = [(&*up.0, up_bias), (&*down.0, down_bias)];
        xs.contiguous()?.apply_op2_no_bwd(&residual.contiguous()?, &FedForward { usual, layers, activation })
    }

    /// As [`Packed::product`], with gradients for `xs`.
    pub(crate) fn frozen_product(
        &self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        transposed: &Self,
    ) -> Result<Tensor> {
        let bias = bias.cloned();
        xs.contiguous()?.apply_op1(Frozen { matrix: self.clone(), bias, transposed: transposed.clone() })
    }

    /// The matrix in f32.
    pub(crate) fn floats(&self) -> Result<Tensor> {
        let (outputs, inputs) = (self.0.outputs(), self.0.inputs());
        let mut values = vec![0f32; outputs * inputs];
        for (output, row) in values.chunks_exact_mut(inputs).enumerate() {
            self.0.row(output, row).map_err(Error::wrap)?;
        }
        Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)
    }

    /// The transposed matrix, for the way back: in f32 if this one is, else in f16.
    pub(crate) fn transposed(&self) -> Result<Self> {
        let (outputs, inputs) = (self.0.outputs(), self.0.inputs());
        let mut columns = vec![0f32; outputs * inputs];
        let mut row = vec![0f32; inputs];
        for output in 0..outputs {
            self.0.row(output, &mut row).map_err(Error::wrap)?;
            for (input, value) in row.iter().enumerate() {
                columns[input * outputs + output] = *value;
            }
        }
        if self.0.format() == Format::F32 {
            let bytes: Vec<u8> = columns.iter().flat_map(|value| value.to_le_bytes()).collect();
            return Self::pack(Format::F32, &bytes, inputs, outputs);
        }
        let bytes: Vec<u8> =
            columns.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
        Self::pack(Format::F16, &bytes, inputs, outputs)
    }

    /// Rows `(ids, inputs)` of the matrix.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let (ids, width) = (ids.to_vec1::<u32>()?, self.0.inputs());
        let mut rows = vec![0f32; ids.len() * width];
        for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(width)) {
            self.0.row(id as usize, row).map_err(Error::wrap)?;
        }
        Tensor::from_vec(rows, (ids.len(), width), &Device::Cpu)
    }

    /// Its bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes() as u64
    }
}

/// What follows a product before it is written.
pub(crate) enum Then<'a> {
    Nothing,
    Activate(Activation),
    /// A residual stream `(rows, outputs)` is added.
    Add(&'a Tensor),
}

impl Then<'_> {
    /// The same for a product that was made elsewhere.
    pub(crate) fn follow(&self, product: Tensor) -> Result<Tensor> {
        match self {
            Self::Nothing => Ok(product),
            Self::Activate(Activation::GeluErf) => product.gelu_erf(),
            Self::Activate(Activation::GeluTanh) => product.gelu(),
            Self::Add(residual) => *residual + product,
        }
    }
}

struct Product<'a> {
    matrix: &'a PackedMatrix,
    usual: Rows,
    bias: Option<&'a Tensor>,
    activation: Option<Activation>,
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "packed-product"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let epilogue = self.activation.map_or(Epilogue::None, Epilogue::Activate);
        multiply((self.matrix, self.usual), self.bias, epilogue, xs, layout)
    }
}

impl CustomOp2 for Product<'_> {
    fn name(&self) -> &'static str {
        "packed-product-and-residual"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = contiguous(residual, residual_layout, NAME)?;
        multiply((self.matrix, self.usual), self.bias, Epilogue::Add(residual), xs, layout)
    }
}

fn multiply(
    (matrix, usual): (&PackedMatrix, Rows),
    bias: Option<&Tensor>,
    epilogue: Epilogue<'_>,
    xs: &CpuStorage,
    layout: &Layout,
) -> Result<(CpuStorage, Shape)> {
    let (rows, _) = layout.shape().dims2()?;
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias.as_ref().map(|(storage, layout)| bias_values(storage, layout)).transpose()?;
    let product =
        matrix.product(usual, contiguous(xs, layout, NAME)?, bias, epilogue).map_err(Error::wrap)?;
    Ok((CpuStorage::F32(product), Shape::from((rows, matrix.outputs()))))
}

fn bias_values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => contiguous(storage, layout, NAME),
        _ => bail!("the bias of a product on a CPU lies elsewhere"),
    }
}

struct FedForward<'a> {
    usual: Rows,
    layers: [(&'a PackedMatrix, Option<&'a Tensor>); 2],
    activation: Activation,
}

impl CustomOp2 for FedForward<'_> {
    fn name(&self) -> &'static str {
        "packed-feed-forward"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let [(up, up_bias), (down, down_bias)] = self.layers;
        let biases = [up_bias, down_bias].map(|bias| bias.map(Tensor::storage_and_layout));
        let [up_bias, down_bias] = biases
            .each_ref()
            .map(|bias| bias.as_ref().map(|(storage, layout)| bias_values(storage, layout)).transpose());
        let layers = FeedForward {
            up: Layer { matrix: up, bias: up_bias? },
            activation: self.activation,
            down: Layer { matrix: down, bias: down_bias? },
        };
        let residual = contiguous(residual, residual_layout, NAME)?;
        let product = layers
            .run(self.usual, contiguous(xs, layout, NAME)?, Epilogue::Add(residual))
            .map_err(Error::wrap)?;
        Ok((CpuStorage::F32(product), Shape::from((rows, down.outputs()))))
    }
}

/// A product through which gradients flow back to its input; the matrix itself does not learn.
struct Frozen {
    matrix: Packed,
    bias: Option<Tensor>,
    transposed: Packed,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        multiply((&self.matrix.0, Rows::Many), self.bias.as_ref(), Epilogue::None, xs, layout)
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.transposed.product(Rows::Many, gradient, None, Then::Nothing).map(Some)
    }
}

fn format_of(dtype: GgmlDType) -> Option<Format> {
    match dtype {
        GgmlDType::F32 => Some(Format::F32),
        GgmlDType::F16 => Some(Format::F16),
        GgmlDType::BF16 => Some(Format::Bf16),
        GgmlDType::Q8_0 => Some(Format::Q8_0),
        GgmlDType::Q4_0 => Some(Format::Q4_0),
        GgmlDType::Q4K => Some(Format::Q4K),
        _ => None,
    }
}
