//! `torch.save` files (`.pth`, `.bin`): a zip with one pickle and one entry per storage.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::DType;

use super::pickle::{self, MAX_PICKLE_BYTES, Pickle, PickledTensor, Value};
use super::source::{TensorHeader, TensorSource, widen};
use super::stored_zip::{StoredZip, ZipError};
use super::{CheckpointError, PickleError};

/// An open file; only its index has been read.
pub(super) struct PthFile {
    label: String,
    zip: StoredZip,
    /// folder inside the zip, with its slash: the file's name when it was saved
    prefix: String,
    pickle: Pickle,
    headers: BTreeMap<String, TensorHeader>,
    views: BTreeMap<String, PickledTensor>,
}

impl PthFile {
    pub(super) fn open(path: &Path, label: String) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(|source| CheckpointError::Io {
            operation: "open",
            file: path.display().to_string(),
            source,
        })?;
        let broken =
            |error: ZipError| CheckpointError::Format { file: label.clone(), reason: error.to_string() };
        let zip = StoredZip::open(file).map_err(broken)?;
        let prefix = index_prefix(&zip)
            .map_err(|reason| CheckpointError::Format { file: label.clone(), reason: reason.into() })?;
        let index = format!("{prefix}data.pkl");
        if zip.size(&index).map_err(broken)? > MAX_PICKLE_BYTES {
            return Err(CheckpointError::Format {
                file: label,
                reason: format!("its index is larger than {MAX_PICKLE_BYTES} bytes"),
            });
        }
        if let Ok(order) = zip.read(&format!("{prefix}byteorder"))
            && order != b"little"
        {
            return Err(CheckpointError::Format { file: label, reason: "its numbers are big-endian".into() });
        }
        let refused = |source: PickleError| CheckpointError::Pickle { file: label.clone(), source };
        let pickle = pickle::parse(&zip.read(&index).map_err(broken)?).map_err(refused)?;
        let views = tensors_of(&pickle).map_err(refused)?;
        if views.is_empty() {
            return Err(CheckpointError::Format { file: label, reason: "it holds no named tensors".into() });
        }
        let header = |view: &PickledTensor| TensorHeader {
            shape: view.shape.clone(),
            // small integers hold no weights either; nobody reads them
            dtype: view.storage.dtype.unwrap_or(DType::I64),
        };
        let headers = views.iter().map(|(name, view)| (name.clone(), header(view))).collect();
        Ok(Self { label, zip, prefix, pickle, headers, views })
    }

    fn tensor_error(&self, key: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Tensor { file: self.label.clone(), key: key.to_owned(), reason: reason.into() }
    }
}

impl TensorSource for PthFile {
    fn label(&self) -> &str {
        &self.label
    }

    fn headers(&self) -> &BTreeMap<String, TensorHeader> {
        &self.headers
    }

    fn read(&self, key: &str) -> Result<Vec<f32>, CheckpointError> {
        let view = self.views.get(key).ok_or_else(|| CheckpointError::NoSuchTensor(key.to_owned()))?;
        let dtype = view
            .storage
            .dtype
            .ok_or_else(|| self.tensor_error(key, "does not hold floating-point numbers"))?;
        let range = byte_range(view, dtype).map_err(|reason| self.tensor_error(key, reason))?;
        let entry = format!("{}data/{}", self.prefix, view.storage.key);
        let bytes = self.zip.read(&entry).map_err(|error| CheckpointError::Format {
            file: self.label.clone(),
            reason: format!("`{key}`: {error}"),
        })?;
        let bytes =
            bytes.get(range).ok_or_else(|| self.tensor_error(key, "reaches beyond its stored numbers"))?;
        widen(dtype, bytes).ok_or_else(|| self.tensor_error(key, "does not hold floating-point numbers"))
    }

    fn setting(&self, path: &[&str]) -> Option<f64> {
        let mut value = self.pickle.get(self.pickle.root(), "config")?;
        for key in path {
            value = self.pickle.get(value, key)?;
        }
        match value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }
}

fn index_prefix(zip: &StoredZip) -> Result<String, &'static str> {
    let mut found = zip.names().filter_map(|name| name.strip_suffix("data.pkl"));
    match (found.next(), found.next()) {
        (Some(prefix), None) => Ok(prefix.to_owned()),
        (None, _) => Err("it is a zip, but torch did not write it (no data.pkl inside)"),
        (Some(_), Some(_)) => Err("it holds more than one data.pkl"),
    }
}

/// The named tensors: below `model` if the file has such an entry, else at the top.
fn tensors_of(pickle: &Pickle) -> Result<BTreeMap<String, PickledTensor>, PickleError> {
    let root = pickle.root();
    let state = match pickle.get(root, "model") {
        Some(model @ Value::Dict(_)) => model,
        _ => root,
    };
    let Value::Dict(items) = state else {
        return Err(PickleError::Malformed("its content is not a dictionary of tensors"));
    };
    let named = |(name, value): &(u32, u32)| match (pickle.value(*name), pickle.value(*value)) {
        (Value::Text(name), Value::Tensor(tensor)) => Some((name.clone(), tensor.clone())),
        _ => None,
    };
    Ok(items.iter().filter_map(named).collect())
}

/// Where the view's numbers lie in its storage entry.
fn byte_range(view: &PickledTensor, dtype: DType) -> Result<std::ops::Range<usize>, &'static str> {
    const TOO_LARGE: &str = "claims an impossible size";
    if view.stride.len() != view.shape.len() {
        return Err("has a stride that does not fit its shape");
    }
    let mut count = 1usize;
    for (&size, &stride) in view.shape.iter().zip(&view.stride).rev() {
        if size != 1 && stride != count {
            return Err("is not stored row by row");
        }
        count = count.checked_mul(size).ok_or(TOO_LARGE)?;
    }
    let end = view.offset.checked_add(count as u64).ok_or(TOO_LARGE)?;
    if end > view.storage.elements {
        return Err("reaches beyond its stored numbers");
    }
    let width = dtype.size_in_bytes() as u64;
    let byte = |elements: u64| elements.checked_mul(width).and_then(|bytes| usize::try_from(bytes).ok());
    Ok(byte(view.offset).ok_or(TOO_LARGE)?..byte(end).ok_or(TOO_LARGE)?)
}
