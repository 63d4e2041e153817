//! A model's tensors in the types that they are packed in, as one file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::QTensor;

use super::bundle_writer::io;
use super::gguf::{Entry, GgufWriter};
use super::source::WeightSource;
use super::{PackError, WeightFormat};
use crate::bundle::{FileBytes, WeightsFile};
use crate::checkpoint::Assembly;
use crate::{TensorKind, Weights};

/// Types of a model's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightTypes {
    /// Of the language model, the Q-Formers and the projections.
    pub language: WeightFormat,
    /// Of the vision tower.
    pub vision: WeightFormat,
}

impl WeightTypes {
    /// Nothing is rounded.
    pub const F32: Self = Self { language: WeightFormat::F32, vision: WeightFormat::F32 };

    fn of(self, tensor: &str) -> WeightFormat {
        if tensor.contains("visual_encoder.") { self.vision } else { self.language }
    }
}

/// What a file of weights holds.
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) types: BTreeMap<String, usize>,
    pub(super) fallbacks: BTreeMap<String, String>,
}

/// One tensor at a time, so that a full-size model never lies in memory whole.
pub(super) fn write_weights(
    source: &dyn WeightSource,
    wanted: WeightTypes,
    path: &Path,
) -> Result<Written, PackError> {
    let (mut types, mut fallbacks) = (BTreeMap::new(), BTreeMap::new());
    let mut entries = Vec::new();
    for (name, shape, kind) in source.tensors() {
        let format = match kind {
            TensorKind::Float => WeightFormat::F32,
            TensorKind::Matrix => {
                let wanted = wanted.of(name);
                let fitting = wanted.fitting(shape);
                if fitting != wanted {
                    fallbacks.insert(name.to_owned(), fitting.to_string());
                }
                fitting
            }
        };
        *types.entry(format.to_string()).or_insert(0) += 1;
        entries.push(Entry { name: name.to_owned(), shape: shape.to_vec(), format });
    }
    let file = BufWriter::new(File::create(path).map_err(io("create", path))?);
    let mut file = GgufWriter::begin(file, "tinygpt-v", &entries).map_err(io("write", path))?;
    for entry in &entries {
        let convert = |source| PackError::Convert {
            tensor: entry.name.clone(),
            format: entry.format.to_string(),
            source,
        };
        let stored =
            QTensor::quantize(&source.tensor(&entry.name)?, entry.format.dtype()).map_err(convert)?;
        let blocks = stored.data().map_err(convert)?;
        file.tensor(&blocks).map_err(io("write", path))?;
    }
    file.finish().map_err(io("write", path))?;
    let bytes = path.metadata().map_err(io("read", path))?.len();
    Ok(Written { bytes, types, fallbacks })
}

/// A checkpoint's tensors as a bundle of these types has them, without making one.
pub(crate) fn weights_as_packed(
    assembly: &Assembly,
    types: WeightTypes,
    device: &Device,
) -> Result<Weights, PackError> {
    let folder = tempfile::tempdir().map_err(io("write into", &std::env::temp_dir()))?;
    let path = folder.path().join(crate::bundle::WEIGHTS);
    write_weights(assembly, types, &path)?;
    // The file has no name any more when the folder is gone, but is there for as long as it is mapped.
    read_weights(&path, device)
}

/// The tensors of a file.
pub(super) fn read_weights(path: &Path, device: &Device) -> Result<Weights, PackError> {
    let bytes = FileBytes::map(path).map_err(io("read", path))?;
    let file = WeightsFile::open(bytes).map_err(|source| PackError::Golden(Box::new(source)))?;
    Ok(Weights::from_file(file, device))
}
