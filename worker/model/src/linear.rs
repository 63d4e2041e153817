//! Matrix products with dense or block-quantised weights, and row look-ups in such tables.
use std::sync::Arc;

use candle_core::{
    DType, Module, Result, Tensor,
    quantized::{QMatMul, QTensor},
};

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
    pub(crate) fn dense(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Matrix::Dense(weight), bias })
    }

    pub(crate) fn quantised(weight: Arc<QTensor>, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Matrix::Quantised(QMatMul::from_arc(weight)?), bias })
    }
}

impl Module for Linear {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (inputs, leading) = xs.dims().split_last().map_or((1, vec![]), |(l, r)| (*l, r.to_vec()));
        let rows: usize = leading.iter().product();
        let flat = xs.reshape((rows, inputs))?;
        let ys = match &self.weight {
            Matrix::Dense(weight) if weight.dtype() == DType::F32 => flat.matmul(&weight.t()?)?,
            Matrix::Dense(weight) => {
                flat.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?
            }
            Matrix::Quantised(weight) => weight.forward(&flat)?,
        };
        let ys = match &self.bias {
            Some(bias) => ys.broadcast_add(bias)?,
            None => ys,
        };
        let mut shape = leading;
        shape.push(ys.dim(1)?);
        ys.reshape(shape)
    }
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
