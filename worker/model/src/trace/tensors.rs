//! The tensors of a trace on their way into a file.
use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Result, Tensor};

/// Tensors by name. Floats are f32, ids i64, picture bytes u8.
#[derive(Default)]
pub(super) struct TraceTensors {
    tensors: HashMap<String, Tensor>,
}

/// Puts a name part in front of everything it is given.
pub(super) struct Below<'a> {
    tensors: &'a mut TraceTensors,
    prefix: String,
}

impl TraceTensors {
    /// The part of the trace whose names begin with `prefix/`.
    pub(super) fn below(&mut self, prefix: impl std::fmt::Display) -> Below<'_> {
        Below { tensors: self, prefix: format!("{prefix}/") }
    }

    /// Writes a safetensors file; returns how many tensors it holds.
    pub(super) fn write(&self, path: &Path) -> Result<usize> {
        candle_core::safetensors::save(&self.tensors, path)?;
        Ok(self.tensors.len())
    }
}

impl Below<'_> {
    /// A deeper part.
    pub(super) fn below(&mut self, part: impl std::fmt::Display) -> Below<'_> {
        self.beginning(format!("{part}/"))
    }

    /// The part whose names begin with `start`.
    pub(super) fn beginning(&mut self, start: impl std::fmt::Display) -> Below<'_> {
        Below { prefix: format!("{}{start}", self.prefix), tensors: self.tensors }
    }

    /// Any tensor as it is, from whatever device.
    pub(super) fn put(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        self.tensors
            .tensors
            .insert(format!("{}{name}", self.prefix), tensor.to_device(&Device::Cpu)?.contiguous()?);
        Ok(())
    }

    /// Ids, positions or masks of any shape.
    pub(super) fn ids<T: Copy + Into<i64>>(&mut self, name: &str, ids: &[T], shape: &[usize]) -> Result<()> {
        let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
        self.put(name, Tensor::from_vec(ids, shape, &Device::Cpu)?)
    }

    /// Rows of ids of equal length.
    pub(super) fn id_rows(&mut self, name: &str, rows: &[Vec<u32>]) -> Result<()> {
        let width = rows.first().map_or(0, Vec::len);
        self.ids(name, &rows.concat(), &[rows.len(), width])
    }

    /// The only row of a batch of one.
    pub(super) fn row(&mut self, name: &str, rows: Vec<Vec<u32>>) -> Result<()> {
        let row = rows.concat();
        self.ids(name, &row, &[row.len()])
    }

    /// Bytes of a picture, `(height, width, 3)`.
    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8], height: usize, width: usize) -> Result<()> {
        self.put(name, Tensor::from_slice(bytes, (height, width, 3), &Device::Cpu)?)
    }

    /// Numbers in one row.
    pub(super) fn numbers(&mut self, name: &str, numbers: &[f32]) -> Result<()> {
        self.put(name, Tensor::new(numbers, &Device::Cpu)?.to_dtype(DType::F32)?)
    }
}
