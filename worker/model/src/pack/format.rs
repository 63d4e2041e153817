//! How matrices are stored.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::GgmlDType;

/// A storage type for matrices. Norms, biases, positions and queries stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: exact for weights published as such.
    F16,
    /// 16-bit floats with f32's range.
    BF16,
    /// 8 bits in blocks of 32.
    Q8_0,
    /// 4 bits in blocks of 32.
    Q4_0,
    /// 4 bits in blocks of 256; needs rows divisible by 256.
    Q4K,
}

impl WeightFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0, Self::Q4K];

    /// The name on the command line and in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4K => "q4_k",
        }
    }

    pub(crate) fn dtype(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::BF16 => GgmlDType::BF16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4K => GgmlDType::Q4K,
        }
    }

    /// The type's code in a GGUF file.
    pub(super) fn gguf_code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::BF16 => 30,
        }
    }

    /// The type that a matrix of this shape gets: the nearest one whose blocks divide its rows. A convolution's
    /// kernel is never cut into blocks.
    pub(super) fn fitting(self, shape: &[usize]) -> Self {
        let row = shape.last().copied().unwrap_or(0);
        let fits = |format: Self| row % format.dtype().block_size() == 0;
        match self {
            Self::Q4K | Self::Q8_0 | Self::Q4_0 if shape.len() != 2 => Self::F16,
            Self::Q4K if !fits(Self::Q4K) => Self::Q8_0.fitting(shape),
            Self::Q8_0 | Self::Q4_0 if !fits(self) => Self::F16,
            _ => self,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|format| format.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|format| format.as_str()).collect();
            format!("`{text}` is not a weight type: use one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::WeightFormat::{self, F16, F32, Q4_0, Q4K, Q8_0};

    #[test]
    fn blocks_must_divide_rows() {
        assert_eq!(Q4K.fitting(&[10, 2560]), Q4K);
        assert_eq!(Q4K.fitting(&[10, 1408]), Q8_0);
        assert_eq!(Q8_0.fitting(&[10, 279]), F16);
        assert_eq!(Q4_0.fitting(&[10, 64]), Q4_0);
        assert_eq!(Q4_0.fitting(&[64, 3, 14, 14]), F16);
        assert_eq!(F32.fitting(&[64, 3, 14, 14]), F32);
    }

    #[test]
    fn names_are_read_back() {
        for format in WeightFormat::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        assert!("q5_1".parse::<WeightFormat>().is_err());
    }
}
