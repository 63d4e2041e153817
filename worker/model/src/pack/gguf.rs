//! A GGUF file written tensor by tensor, so that a full-size model never lies in memory whole.
//!
//! The backend's own writer wants every tensor at once. Layout: the GGUF specification, version 2, which is what the
//! backend reads and writes.

use std::io::{self, Write};

use super::WeightFormat;

const MAGIC: u32 = 0x4655_4747;
const VERSION: u32 = 2;
/// Every tensor begins at a multiple of this, counted from the first.
const ALIGNMENT: u64 = 32;
/// Code of a text value.
const TEXT: u32 = 8;

/// One tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) format: WeightFormat,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let dtype = self.format.dtype();
        (self.shape.iter().product::<usize>() / dtype.block_size() * dtype.type_size()) as u64
    }
}

/// A file that has its table of contents and waits for the tensors, in that order.
pub(super) struct GgufWriter<W> {
    out: W,
    expected: std::vec::IntoIter<u64>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the table of contents.
    pub(super) fn begin(mut out: W, architecture: &str, entries: &[Entry]) -> io::Result<Self> {
        let mut head = Vec::new();
        head.extend(MAGIC.to_le_bytes());
        head.extend(VERSION.to_le_bytes());
        head.extend((entries.len() as u64).to_le_bytes());
        head.extend(1u64.to_le_bytes());
        text(&mut head, "general.architecture");
        head.extend(TEXT.to_le_bytes());
        text(&mut head, architecture);
        let mut offset = 0u64;
        for entry in entries {
            text(&mut head, &entry.name);
            head.extend((entry.shape.len() as u32).to_le_bytes());
            // Innermost dimension first.
            for &dimension in entry.shape.iter().rev() {
                head.extend((dimension as u64).to_le_bytes());
            }
            head.extend(entry.format.gguf_code().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += entry.bytes().next_multiple_of(ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.write_all(&head)?;
        let expected: Vec<u64> = entries.iter().map(Entry::bytes).collect();
        Ok(Self { out, expected: expected.into_iter() })
    }

    /// Writes the next tensor's blocks.
    pub(super) fn tensor(&mut self, blocks: &[u8]) -> io::Result<()> {
        if self.expected.next() != Some(blocks.len() as u64) {
            return Err(io::Error::other("a tensor has another size than announced"));
        }
        self.out.write_all(blocks)?;
        let padding = blocks.len().next_multiple_of(ALIGNMENT as usize) - blocks.len();
        self.out.write_all(&[0; ALIGNMENT as usize][..padding])
    }

    /// The finished file.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.expected.next().is_some() {
            return Err(io::Error::other("a tensor that was announced is missing"));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn text(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::quantized::{QTensor, gguf_file};
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn the_backend_reads_what_was_written() {
        let formats = [
            WeightFormat::F32,
            WeightFormat::F16,
            WeightFormat::BF16,
            WeightFormat::Q8_0,
            WeightFormat::Q4_0,
            WeightFormat::Q4K,
        ];
        let stored: Vec<(Entry, QTensor)> = formats
            .into_iter()
            .map(|format| {
                let width = if format == WeightFormat::F16 { 3 } else { 256 };
                let values = Tensor::randn(0f32, 1.0, (5, width), &Device::Cpu).unwrap();
                let name = format!("a.{format}");
                let entry = Entry { name, shape: vec![5, width], format };
                (entry, QTensor::quantize(&values, format.dtype()).unwrap())
            })
            .collect();
        let entries: Vec<Entry> = stored.iter().map(|(entry, _)| entry.clone()).collect();
        let mut writer = GgufWriter::begin(Vec::new(), "test", &entries).unwrap();
        for (_, tensor) in &stored {
            writer.tensor(&tensor.data().unwrap()).unwrap();
        }
        let mut file = std::io::Cursor::new(writer.finish().unwrap());
        let content = gguf_file::Content::read(&mut file).unwrap();
        assert_eq!(content.metadata["general.architecture"].to_string().unwrap(), "test");
        for (entry, tensor) in &stored {
            let read = content.tensor(&mut file, &entry.name, &Device::Cpu).unwrap();
            assert_eq!(read.shape().dims(), entry.shape);
            assert_eq!(read.dtype(), tensor.dtype());
            assert_eq!(read.data().unwrap(), tensor.data().unwrap());
        }
    }

    #[test]
    fn tensors_must_come_as_announced() {
        let entry = Entry { name: "a".to_owned(), shape: vec![2, 3], format: WeightFormat::F32 };
        let mut writer = GgufWriter::begin(Vec::new(), "test", &[entry]).unwrap();
        assert!(writer.tensor(&[0; 23]).is_err());
        let entry = Entry { name: "a".to_owned(), shape: vec![2, 3], format: WeightFormat::F32 };
        assert!(GgufWriter::begin(Vec::new(), "test", &[entry]).unwrap().finish().is_err());
    }
}
