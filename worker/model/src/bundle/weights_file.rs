//! The tensors of a GGUF file, read one by one where they lie.

use std::ops::Range;

use candle_core::quantized::{GgmlDType, gguf_file};

use super::files::FileBytes;

/// A file of weights whose table of contents has been read.
#[derive(Debug)]
pub(crate) struct WeightsFile {
    content: gguf_file::Content,
    bytes: FileBytes,
}

/// One tensor as it lies in the file.
#[derive(Debug)]
pub(crate) struct StoredTensor<'a> {
    pub(crate) dtype: GgmlDType,
    /// Dimensions, outermost first.
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl WeightsFile {
    /// Reads the table of contents and checks that every tensor lies inside the file.
    pub(crate) fn open(bytes: FileBytes) -> candle_core::Result<Self> {
        let content = gguf_file::Content::read(&mut std::io::Cursor::new(bytes.as_slice()))?;
        let file = Self { content, bytes };
        for (name, info) in &file.content.tensor_infos {
            let is_whole = file.range(info).is_some_and(|range| range.end <= file.bytes.as_slice().len());
            if !is_whole {
                candle_core::bail!("tensor `{name}` does not lie in the file");
            }
        }
        Ok(file)
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// One tensor; `None` if the file has none of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let info = self.content.tensor_infos.get(name)?;
        let bytes = &self.bytes.as_slice()[self.range(info)?];
        Some(StoredTensor { dtype: info.ggml_dtype, shape: info.shape.dims(), bytes })
    }

    /// Says that a tensor has been copied to where it is used.
    pub(crate) fn release(&self, name: &str) {
        if let Some(range) = self.content.tensor_infos.get(name).and_then(|info| self.range(info)) {
            self.bytes.release(range);
        }
    }

    /// Where a tensor lies; `None` for one that no file can hold.
    fn range(&self, info: &gguf_file::TensorInfo) -> Option<Range<usize>> {
        let (dtype, elements) = (info.ggml_dtype, info.shape.elem_count());
        if !elements.is_multiple_of(dtype.block_size()) {
            return None;
        }
        let start = usize::try_from(self.content.tensor_data_offset.checked_add(info.offset)?).ok()?;
        let size = (elements / dtype.block_size()).checked_mul(dtype.type_size())?;
        Some(start..start.checked_add(size)?)
    }
}
