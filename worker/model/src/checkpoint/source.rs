//! A checkpoint file, whatever its container: names, shapes, and one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;

use super::CheckpointError;

/// Type and shape of a tensor in a file, known without reading its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// dimensions, outermost first
    pub shape: Vec<usize>,
    /// how the numbers are stored
    pub dtype: DType,
}

/// Named tensors that can be read one by one.
pub trait TensorSource: Send + Sync {
    /// The file (or index of files) in messages.
    fn label(&self) -> &str;
    /// The very file that holds `key`, for messages.
    fn file_of(&self, key: &str) -> &str {
        let _ = key;
        self.label()
    }
    /// All tensors.
    fn headers(&self) -> &BTreeMap<String, TensorHeader>;
    /// The numbers of one tensor in row-major order, widened to f32.
    fn read(&self, key: &str) -> Result<Vec<f32>, CheckpointError>;
    /// Text that the file's writer left in its header under this name, if there is any.
    fn note(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }
    /// Number under this path of the file's own training configuration, if it has one.
    fn setting(&self, path: &[&str]) -> Option<f64> {
        let _ = path;
        None
    }
}

/// Last two parts of a path: enough to recognise a file in a message or manifest.
pub(super) fn label_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    match path.parent().and_then(Path::file_name) {
        Some(folder) => format!("{}/{name}", folder.to_string_lossy()),
        None => name,
    }
}

/// Numbers of type `dtype` in little-endian `bytes`, widened; `None` for a type without weights.
pub(super) fn widen(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    use half::slice::HalfFloatSliceExt;
    let halves =
        || -> Vec<u16> { bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect() };
    match dtype {
        DType::F32 => Some(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()),
        DType::F64 => {
            Some(bytes.as_chunks().0.iter().map(|eight| f64::from_le_bytes(*eight) as f32).collect())
        }
        DType::F16 => {
            let halves: Vec<half::f16> = halves().into_iter().map(half::f16::from_bits).collect();
            let mut wide = vec![0.0; halves.len()];
            halves.as_slice().convert_to_f32_slice(&mut wide);
            Some(wide)
        }
        DType::BF16 => Some(halves().into_iter().map(|bits| half::bf16::from_bits(bits).to_f32()).collect()),
        _ => None,
    }
}
