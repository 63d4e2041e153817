//! Bytes to the network's input values.

use candle_core::{Device, Tensor};

use super::SquareImage;
use crate::ModelError;
use crate::error::DuringStep;

/// CLIP's channel means and deviations.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Normalised pixels `(B, 3, S, S)` in f32: `(x / 255 − mean) / deviation` per channel, in the reference's
/// order of operations. All pictures must have the same side.
pub fn pixel_values(images: &[&SquareImage], device: &Device) -> Result<Tensor, ModelError> {
    let size = images.first().map_or(0, |image| image.size);
    let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| {
        std::array::from_fn(|value| (value as f32 / 255.0 - MEAN[channel]) / DEVIATION[channel])
    });
    let mut values = Vec::with_capacity(images.len() * 3 * size * size);
    for image in images {
        for (channel, table) in tables.iter().enumerate() {
            values
                .extend(image.rgb.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]));
        }
    }
    Tensor::from_vec(values, (images.len(), 3, size, size), &Device::Cpu)
        .and_then(|tensor| tensor.to_device(device))
        .during("the transfer of pixels")
}
