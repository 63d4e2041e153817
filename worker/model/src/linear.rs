//! Matrix products with a bias, and row look-ups in tables.
use std::sync::Arc;

use candle_core::{
    D, DType, Module, Result, Tensor,
    quantized::{QMatMul, QTensor},
};
use captionfleet_kernels::{Activation, Backend, Rows};

use crate::{
    norm::{LayerNorm, RmsNorm},
    own_kernels::{OwnKernels, SplitHeads, Unfinished},
    packed::{Packed, Then},
    weight_memory::HoldsWeights,
};

/// `y = x Wᵀ + b` over the last dimension; input and output are f32.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
    kernels: OwnKernels,
    usual: Rows,
}

#[derive(Clone, Debug)]
enum Matrix {
    /// On a CPU, in any format.
    Packed(Packed),
    /// `(outputs, inputs)` on a GPU; multiplied through a transposed view, never copied.
    Dense(Tensor),
    /// In blocks on a GPU.
    Quantised(QMatMul),
}

impl Linear {
    /// Of places with many rows, as most are.
    fn of(weight: Matrix, bias: Option<Tensor>) -> Self {
        Self { weight, bias, kernels: OwnKernels::NONE, usual: Rows::Many }
    }

    /// The same layer where it has a row for each sequence.
    pub(crate) fn for_few_rows(&self) -> Self {
        Self { usual: Rows::Few, ..self.clone() }
    }

    pub(crate) fn packed(weight: Packed, bias: Option<Tensor>) -> Self {
        Self::of(Matrix::Packed(weight), bias)
    }

    /// A layer made of floats `(outputs, inputs)`: in f32, packed on a CPU.
    pub(crate) fn of_floats(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        if weight.device().is_cpu() {
            return Ok(Self::packed(Packed::of_tensor(weight)?, bias));
        }
        Ok(Self::dense(weight.clone(), bias))
    }

    pub(crate) fn dense(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self::of(Matrix::Dense(weight), bias)
    }

    /// The same layer, which uses these kernels of ours on its GPU.
    pub(crate) fn with_kernels(self, kernels: OwnKernels) -> Self {
        Self { kernels, ..self }
    }

    /// The type in which its input is multiplied by a GPU, and f32 on a CPU.
    pub(crate) fn input_type(&self) -> DType {
        match &self.weight {
            Matrix::Dense(weight) if !weight.device().is_cpu() => weight.dtype(),
            Matrix::Dense(_) | Matrix::Packed(_) | Matrix::Quantised(_) => DType::F32,
        }
    }

    /// Whether its products are those of floats on a GPU.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.weight, Matrix::Dense(_))
    }

    /// Weight `(outputs, inputs)` in f32, and bias: a copy that may learn.
    pub(crate) fn floats(&self) -> Result<(Tensor, Option<Tensor>)> {
        let weight = match &self.weight {
            Matrix::Packed(weight) => weight.floats()?,
            Matrix::Dense(weight) => weight.to_dtype(DType::F32)?,
            Matrix::Quantised(weight) => weight.dequantize_f16()?.to_dtype(DType::F32)?,
        };
        Ok((weight, self.bias.clone()))
    }

    pub(crate) fn quantised(weight: Arc<QTensor>, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self::of(Matrix::Quantised(QMatMul::from_arc(weight)?), bias))
    }
}

impl Module for Linear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.apply(xs, Then::Nothing)
    }
}

impl Linear {
    /// What its products run on, on a CPU. Attention to what it makes is as exact there.
    pub(crate) fn backend(&self) -> Backend {
        match &self.weight {
            Matrix::Packed(weight) => weight.backend(self.usual),
            _ => Backend::best(),
        }
    }

    /// A function of the layer's output, without the output itself ever being written. On a GPU it may come in the type in
    /// which the next layer multiplies.
    pub(crate) fn activated(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        self.apply(xs, Then::Activate(activation))
    }

    /// The layer's output added to `residual`, of the same shape.
    pub(crate) fn added_to(&self, residual: &Tensor, xs: &Tensor) -> Result<Tensor> {
        self.apply(xs, Then::Add(&rows(residual)?))
    }

    /// `down(activation(up(xs)))` added to `residual`, of the shape of what comes out.
    pub(crate) fn feed_forward(
        [up, down]: [&Self; 2],
        activation: Activation,
        residual: &Tensor,
        xs: &Tensor,
    ) -> Result<Tensor> {
        let (Matrix::Packed(first), Matrix::Packed(second)) = (&up.weight, &down.weight) else {
            return down.added_to(residual, &up.activated(xs, activation)?);
        };
        let layers = [(first, up.bias.as_ref()), (second, down.bias.as_ref())];
        Packed::feed_forward(up.usual, layers, activation, &rows(residual)?, &rows(xs)?)?
            .reshape(residual.shape())
    }

    /// The layer's output added to `residual`, and the norm of the sum.
    pub(crate) fn added_and_normed(
        &self,
        residual: &Tensor,
        xs: &Tensor,
        norm: &LayerNorm,
    ) -> Result<(Tensor, Tensor)> {
        if let Some(product) = self.product_for_norm(xs, norm.width())? {
            let (sum, normed) = OwnKernels::sum_and_norm(
                self.unfinished(&product),
                &rows(residual)?,
                norm.parts(),
                norm.output(),
            )?;
            return Ok((sum.reshape(residual.shape())?, normed.reshape(residual.shape())?));
        }
        let sum = self.added_to(residual, xs)?;
        let normed = norm.forward(&sum)?;
        Ok((sum, normed))
    }

    /// The norm of the layer's output, added to `residual`.
    pub(crate) fn normed_and_added(&self, residual: &Tensor, xs: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        if let Some(product) = self.product_for_norm(xs, norm.width())? {
            let sum = OwnKernels::norm_and_sum(self.unfinished(&product), &rows(residual)?, norm.parts())?;
            return sum.reshape(residual.shape());
        }
        norm.forward(&self.forward(xs)?)? + residual
    }

    fn apply(&self, xs: &Tensor, then: Then<'_>) -> Result<Tensor> {
        let mut shape = xs.dims().to_vec();
        shape.pop();
        let flat = rows(xs)?;
        let ys = match &self.weight {
            Matrix::Packed(weight) => weight.product(self.usual, &flat, self.bias.as_ref(), then)?,
            Matrix::Dense(weight) => self.finish(&dense_product(weight, &flat)?, &then)?,
            Matrix::Quantised(weight) => self.finish(&quantised_product(weight, &flat)?, &then)?,
        };
        shape.push(ys.dim(1)?);
        ys.reshape(shape)
    }

    /// Queries times `scale`, keys and values of a fused projection of `(B, tokens, …)`, by heads and in the type of the product. `None` where no kernel of ours makes them.
    pub(crate) fn split_into_heads(
        &self,
        xs: &Tensor,
        heads: usize,
        scale: f64,
    ) -> Result<Option<SplitHeads>> {
        let tokens = xs.dim(D::Minus2)?;
        let Some(product) = self.gpu_product(xs, self.kernels.splits_heads())? else { return Ok(None) };
        self.kernels.split_heads(self.unfinished(&product), (tokens, heads), scale)
    }

    /// The product alone, where a kernel of ours takes care of its bias and of the norm of its `width` outputs.
    fn product_for_norm(&self, xs: &Tensor, width: usize) -> Result<Option<Tensor>> {
        self.gpu_product(xs, self.kernels.norms(width))
    }

    /// The product alone `(rows, outputs)`, if it is wanted and made on a GPU.
    fn gpu_product(&self, xs: &Tensor, wanted: bool) -> Result<Option<Tensor>> {
        match &self.weight {
            _ if !wanted => Ok(None),
            Matrix::Packed(_) => Ok(None),
            Matrix::Dense(weight) => Ok(Some(dense_product(weight, &rows(xs)?)?)),
            Matrix::Quantised(weight) => Ok(Some(quantised_product(weight, &rows(xs)?)?)),
        }
    }

    fn unfinished<'a>(&'a self, product: &'a Tensor) -> Unfinished<'a> {
        Unfinished { product, bias: self.bias.as_ref() }
    }

    /// What follows a product on a GPU.
    fn finish(&self, product: &Tensor, then: &Then<'_>) -> Result<Tensor> {
        if let Some(ys) = self.kernels.finish(self.unfinished(product), then)? {
            return Ok(ys);
        }
        let ys = product.to_dtype(DType::F32)?;
        then.follow(match &self.bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        })
    }
}

/// `xs Wᵀ` in the type of the weights.
fn dense_product(weight: &Tensor, xs: &Tensor) -> Result<Tensor> {
    xs.to_dtype(weight.dtype())?.matmul(&weight.t()?)
}

/// `xs Wᵀ` in f32.
fn quantised_product(weight: &QMatMul, xs: &Tensor) -> Result<Tensor> {
    weight.forward(&xs.to_dtype(DType::F32)?)
}

/// `(…, width)` as rows `(rows, width)`.
fn rows(xs: &Tensor) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    xs.reshape(((), width))
}

/// A linear layer that does not learn, and through which gradients flow back.
#[derive(Debug)]
pub(crate) struct FrozenLinear {
    layer: Linear,
    /// On a CPU; the backend turns matrices round itself.
    transposed: Option<Packed>,
}

impl FrozenLinear {
    pub(crate) fn of(layer: &Linear) -> Result<Self> {
        let (weight, transposed) = match &layer.weight {
            Matrix::Packed(weight) => (layer.weight.clone(), Some(weight.transposed()?)),
            Matrix::Dense(_) => (layer.weight.clone(), None),
            Matrix::Quantised(weight) => (Matrix::Dense(weight.dequantize_f16()?), None),
        };
        // None of our kernels knows a way back.
        let layer = Linear::of(weight, layer.bias.clone());
        Ok(Self { layer, transposed })
    }
}

impl Module for FrozenLinear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (Matrix::Packed(weight), Some(transposed)) = (&self.layer.weight, &self.transposed) else {
            return self.layer.forward(xs);
        };
        let mut shape = xs.dims().to_vec();
        let inputs = shape.pop().unwrap_or(1);
        let ys = weight.frozen_product(&xs.reshape(((), inputs))?, self.layer.bias.as_ref(), transposed)?;
        shape.push(ys.dim(1)?);
        ys.reshape(shape)
    }
}

impl HoldsWeights for Linear {
    fn weight_bytes(&self) -> u64 {
        // The bias is a tensor that was counted when it was read.
        match &self.weight {
            Matrix::Packed(weight) => weight.bytes(),
            Matrix::Dense(weight)
            | Matrix::Quantised(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => {
                weight.weight_bytes()
            }
            Matrix::Quantised(QMatMul::QTensor(weight)) => weight.storage_size_in_bytes() as u64,
        }
    }
}

/// A table of one row per token.
#[derive(Clone, Debug)]
pub(crate) enum TokenTable {
    /// On a CPU, in any format.
    Packed(Packed),
    /// On a GPU.
    Dense(Tensor),
    /// In blocks on a GPU.
    Quantised(Arc<QTensor>),
}

impl TokenTable {
    /// Whether it is a table of floats on a GPU.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense(_))
    }

    /// Rows `(ids, width)` in f32.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(table) => table.rows(ids),
            Self::Dense(table) => table.index_select(ids, 0)?.to_dtype(DType::F32),
            Self::Quantised(table) => table.embedding(ids),
        }
    }
}

impl HoldsWeights for TokenTable {
    fn weight_bytes(&self) -> u64 {
        match self {
            Self::Packed(table) => table.bytes(),
            Self::Dense(table) => table.weight_bytes(),
            Self::Quantised(table) => table.storage_size_in_bytes() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, quantized::GgmlDType};

    use super::*;
    use crate::bundle::StoredTensor;

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    fn packed(weight: &Tensor, dtype: GgmlDType) -> Packed {
        let stored = QTensor::quantize(weight, dtype).unwrap();
        let bytes = stored.data().unwrap();
        let stored = StoredTensor { dtype, shape: weight.dims(), bytes: &bytes };
        Packed::of_stored(&stored).unwrap().unwrap()
    }

    #[test]
    fn a_row_is_the_same_in_any_company() {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0] {
            for (outputs, inputs) in [(64, 64), (2, 64), (300, 608), (96, 1088), (1100, 96)] {
                let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap();
                let bias = Tensor::randn(0f32, 1.0, outputs, &Device::Cpu).unwrap();
                let layer = Linear::packed(packed(&weight, dtype), Some(bias));
                let rows = Tensor::randn(0f32, 1.0, (300, inputs), &Device::Cpu).unwrap();
                let all = layer.forward(&rows).unwrap();
                for (first, count) in [(0, 1), (1, 2), (5, 13), (17, 64), (299, 1), (0, 299)] {
                    let some = layer.forward(&rows.narrow(0, first, count).unwrap()).unwrap();
                    let expected = all.narrow(0, first, count).unwrap();
                    assert_eq!(
                        bits(&some),
                        bits(&expected),
                        "{count} rows of {outputs} x {inputs} {dtype:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_agree_with_the_backend() {
        let formats = [
            (GgmlDType::F32, 1e-5),
            (GgmlDType::F16, 1e-3),
            (GgmlDType::BF16, 1e-2),
            (GgmlDType::Q8_0, 1e-2),
            (GgmlDType::Q4_0, 0.15),
            (GgmlDType::Q4K, 0.1),
        ];
        for (dtype, tolerance) in formats {
            let weight = Tensor::randn(0f32, 1.0, (96, 256), &Device::Cpu).unwrap();
            let rows = Tensor::randn(0f32, 1.0, (20, 256), &Device::Cpu).unwrap();
            let expected = rows.matmul(&weight.t().unwrap()).unwrap();
            let found = Linear::packed(packed(&weight, dtype), None).forward(&rows).unwrap();
            let distance = (found - expected).unwrap().abs().unwrap().mean_all().unwrap();
            // A product of 256 normal numbers is of the order of 16.
            let mean = distance.to_scalar::<f32>().unwrap() / 16.0;
            assert!(mean < tolerance, "{dtype:?}: {mean}");
        }
    }

    #[test]
    fn a_table_gives_its_rows() {
        let table = Tensor::randn(0f32, 1.0, (50, 64), &Device::Cpu).unwrap();
        let ids = Tensor::new(&[49u32, 0, 7, 7], &Device::Cpu).unwrap();
        let expected = table.index_select(&ids, 0).unwrap();
        let found = TokenTable::Packed(packed(&table, GgmlDType::F32)).rows(&ids).unwrap();
        assert_eq!(bits(&found), bits(&expected));
    }
}
