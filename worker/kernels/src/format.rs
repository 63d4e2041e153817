//! Formats of stored weights.
use std::fmt;

use crate::PackError;

/// How weights are stored; the bytes of a row are those of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of 32: an f16 scale and 8-bit integers.
    Q8_0,
    /// Blocks of 32: an f16 scale and 4-bit integers, 8 standing for zero.
    Q4_0,
    /// Blocks of 256: f16 scales of eight 6-bit scales and 6-bit offsets, and 4-bit integers.
    Q4K,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0, Self::Q4K];

    /// Inputs that are stored together.
    pub const fn block_inputs(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Q4K => 256,
        }
    }

    /// Bytes of such a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4K => 144,
        }
    }

    /// Bytes of a stored row of `inputs` weights.
    ///
    /// # Errors
    /// A row that is not whole blocks.
    pub fn row_bytes(self, inputs: usize) -> Result<usize, PackError> {
        let block = self.block_inputs();
        if !inputs.is_multiple_of(block) {
            return Err(PackError::Block { format: self, inputs, block });
        }
        (inputs / block).checked_mul(self.block_bytes()).ok_or(PackError::Shape { outputs: 1, inputs })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4K => "Q4_K",
        })
    }
}
