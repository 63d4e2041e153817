//! One safetensors file, of which only the header stays in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::DType;
use serde::Deserialize;

use super::CheckpointError;
use super::source::{TensorHeader, TensorSource, widen};

/// Same bound as the reference implementation of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

pub(super) struct SafetensorsFile {
    label: String,
    file: Mutex<File>,
    headers: BTreeMap<String, TensorHeader>,
    notes: BTreeMap<String, String>,
    /// absolute byte offset and length
    places: BTreeMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl SafetensorsFile {
    pub(super) fn open(path: &Path, label: String) -> Result<Self, CheckpointError> {
        let mut file = File::open(path).map_err(|source| CheckpointError::Io {
            operation: "open",
            file: path.display().to_string(),
            source,
        })?;
        let bad = |reason: String| CheckpointError::Format { file: label.clone(), reason };
        let (header, data_start, length) =
            read_header(&mut file).map_err(|error| bad(format!("its header cannot be read ({error})")))?;
        let raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
            .map_err(|error| bad(format!("its header is malformed ({error})")))?;
        let (mut headers, mut notes) = (BTreeMap::new(), BTreeMap::new());
        let mut places = BTreeMap::new();
        for (name, value) in raw {
            if name == "__metadata__" {
                notes = serde_json::from_value(value).unwrap_or_default();
                continue;
            }
            let entry: Entry = serde_json::from_value(value)
                .map_err(|error| bad(format!("`{name}` is described wrongly ({error})")))?;
            let (dtype, width) = element(&entry.dtype);
            let [from, to] = entry.data_offsets;
            let count = entry.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
            let (Some(bytes), Some(start)) =
                (count.and_then(|count| count.checked_mul(width)), data_start.checked_add(from))
            else {
                return Err(bad(format!("`{name}` claims an impossible size")));
            };
            if to.checked_sub(from) != Some(bytes) || start.checked_add(bytes).is_none_or(|end| end > length)
            {
                return Err(bad(format!("`{name}` does not fit its place; the file is probably cut short")));
            }
            headers.insert(name.clone(), TensorHeader { shape: entry.shape, dtype });
            places.insert(name, (start, bytes));
        }
        if headers.is_empty() {
            return Err(bad("it holds no tensors".into()));
        }
        Ok(Self { label, file: Mutex::new(file), headers, notes, places })
    }
}

impl TensorSource for SafetensorsFile {
    fn label(&self) -> &str {
        &self.label
    }

    fn headers(&self) -> &BTreeMap<String, TensorHeader> {
        &self.headers
    }

    fn note(&self, name: &str) -> Option<String> {
        self.notes.get(name).cloned()
    }

    fn read(&self, key: &str) -> Result<Vec<f32>, CheckpointError> {
        let (Some(header), Some(&(start, length))) = (self.headers.get(key), self.places.get(key)) else {
            return Err(CheckpointError::NoSuchTensor(key.to_owned()));
        };
        let failed = |source| CheckpointError::Io {
            operation: "read",
            file: format!("{}: `{key}`", self.label),
            source,
        };
        // the length was checked against the file's when it was opened
        let mut bytes = vec![0; length as usize];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
            file.read_exact(&mut bytes).map_err(failed)?;
        }
        widen(header.dtype, &bytes).ok_or_else(|| CheckpointError::Tensor {
            file: self.label.clone(),
            key: key.to_owned(),
            reason: "does not hold floating-point numbers".into(),
        })
    }
}

/// Header bytes, where the data begins, and the length of the file.
fn read_header(file: &mut File) -> std::io::Result<(Vec<u8>, u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER_BYTES || size + 8 > length {
        return Err(std::io::Error::other("its stated length is impossible"));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header)?;
    Ok((header, size + 8, length))
}

/// Type and bytes per element; types without weights count as integers, which nobody reads.
fn element(name: &str) -> (DType, u64) {
    match name {
        "F32" => (DType::F32, 4),
        "F16" => (DType::F16, 2),
        "BF16" => (DType::BF16, 2),
        "F64" => (DType::F64, 8),
        "I16" | "U16" => (DType::I64, 2),
        "I32" | "U32" => (DType::U32, 4),
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" => (DType::U8, 1),
        _ => (DType::I64, 8),
    }
}
