//! Matrix products with dense or block-quantised weights, and row look-ups in such tables.
use std::sync::Arc;

use candle_core::{
    DType, Module, Result, Tensor,
    quantized::{QMatMul, QTensor},
};

use crate::weight_memory::HoldsWeights;

/// `y = x Wᵀ + b` over the last dimension; input and output are f32.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

#[derive(Clone, Debug)]
enum Matrix {
    /// `(outputs, inputs)`; multiplied through a transposed view, never copied.
    Dense(Tensor),
    Quantised(QMatMul),
}

impl Linear {
    pub(crate) fn dense(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Matrix::Dense(weight), bias }
    }

    pub(crate) fn quantised(weight: Arc<QTensor>, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Matrix::Quantised(QMatMul::from_arc(weight)?), bias })
    }
}

impl Module for Linear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut shape = xs.dims().to_vec();
        let inputs = shape.pop().unwrap_or(1);
        let flat = xs.reshape(((), inputs))?;
        let ys = match &self.weight {
            Matrix::Dense(weight) if weight.dtype() == DType::F32 => product(&flat, weight)?,
            Matrix::Dense(weight) => {
                flat.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?
            }
            Matrix::Quantised(weight) => weight.forward(&flat)?,
        };
        let ys = match &self.bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        };
        shape.push(ys.dim(1)?);
        ys.reshape(shape)
    }
}

impl HoldsWeights for Linear {
    fn weight_bytes(&self) -> u64 {
        // The bias is a tensor that was counted when it was read.
        self.weight.weight_bytes()
    }
}

impl HoldsWeights for Matrix {
    fn weight_bytes(&self) -> u64 {
        match self {
            Self::Dense(weight) => weight.weight_bytes(),
            Self::Quantised(QMatMul::QTensor(weight)) => weight.storage_size_in_bytes() as u64,
            Self::Quantised(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => weight.weight_bytes(),
        }
    }
}

impl HoldsWeights for TokenTable {
    fn weight_bytes(&self) -> u64 {
        match self {
            Self::Dense(table) => table.weight_bytes(),
            Self::Quantised(table) => table.storage_size_in_bytes() as u64,
        }
    }
}

/// `rows` `(m, inputs)` times the transposed `weight` `(outputs, inputs)`.
///
/// The CPU's matrix product adds up in another order when there are very few rows, so that a row
/// alone would differ in its last bits from the same row in a batch. A few rows of zeros keep it to
/// one order; they cost nothing, for the time goes into reading the weights.
fn product(rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (count, _) = rows.dims2()?;
    let least = least_rows(weight.dims2()?);
    if count >= least || !rows.device().is_cpu() {
        return rows.matmul(&weight.t()?);
    }
    rows.pad_with_zeros(0, 0, least - count)?.matmul(&weight.t()?)?.narrow(0, 0, count)
}

/// Rows from which on the CPU's matrix product adds up in the same order for any number of them:
/// below, it takes matrix-vector kernels (one row), kernels for tiny results (up to 256 numbers) or
/// shorter stretches of long sums (results of at most 64 by 64).
fn least_rows((outputs, inputs): (usize, usize)) -> usize {
    let beyond_tiny = 256 / outputs + 1;
    let beyond_small = if outputs <= 64 && inputs > 512 { 65 } else { 0 };
    beyond_tiny.max(beyond_small).max(4)
}

/// A table of one row per token.
#[derive(Clone, Debug)]
pub(crate) enum TokenTable {
    Dense(Tensor),
    Quantised(Arc<QTensor>),
}

impl TokenTable {
    pub(crate) fn dense(table: Tensor) -> Self {
        Self::Dense(table)
    }

    pub(crate) fn quantised(table: Arc<QTensor>) -> Self {
        Self::Quantised(table)
    }

    /// Rows `(ids, width)` in f32.
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(table) => table.index_select(ids, 0)?.to_dtype(DType::F32),
            Self::Quantised(table) => table.embedding(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, quantized::GgmlDType};

    use super::*;

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    fn assert_rows_stand_alone(layer: &Linear, inputs: usize, what: &str) {
        let rows = Tensor::randn(0f32, 1.0, (300, inputs), &Device::Cpu).unwrap();
        let all = layer.forward(&rows).unwrap();
        for count in [1, 2, 3, 4, 5, 8, 13, 64, 65, 299] {
            let some = layer.forward(&rows.narrow(0, 0, count).unwrap()).unwrap();
            let expected = all.narrow(0, 0, count).unwrap();
            assert_eq!(bits(&some), bits(&expected), "{count} rows of {what}");
        }
    }

    #[test]
    fn a_dense_row_is_the_same_in_any_company() {
        for (outputs, inputs) in [(64, 64), (2, 64), (32, 64), (64, 588), (300, 588), (96, 1100), (1100, 96)]
        {
            let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap();
            let bias = Tensor::randn(0f32, 1.0, outputs, &Device::Cpu).unwrap();
            let layer = Linear::dense(weight, Some(bias));
            assert_rows_stand_alone(&layer, inputs, &format!("{outputs} x {inputs}"));
        }
    }

    #[test]
    fn a_quantised_product_is_near_the_dense_one_in_any_company() {
        for (dtype, tolerance) in [(GgmlDType::Q8_0, 0.02), (GgmlDType::Q4_0, 0.25)] {
            let weight = Tensor::randn(0f32, 1.0, (96, 256), &Device::Cpu).unwrap();
            let quantised = QTensor::quantize(&weight, dtype).unwrap();
            let layer = Linear::quantised(Arc::new(quantised), None).unwrap();
            let rows = Tensor::randn(0f32, 1.0, (20, 256), &Device::Cpu).unwrap();
            let expected = rows.matmul(&weight.t().unwrap()).unwrap();
            let scale = 16.0;
            for count in [1, 3, 20] {
                let found = layer.forward(&rows.narrow(0, 0, count).unwrap()).unwrap();
                let distance = (found - expected.narrow(0, 0, count).unwrap()).unwrap().abs().unwrap();
                let mean = distance.mean_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(mean / scale < tolerance, "{dtype:?}, {count} rows: {mean}");
            }
        }
    }
}
