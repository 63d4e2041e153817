//! Pictures of a trace: decoded, resized, normalised.
use std::path::Path;

use candle_core::Tensor;

use super::{TraceError, read, tensors::TraceTensors};
use crate::{
    ModelError, TinyGptV,
    preprocess::{DecodeLimits, Picture, decode, pixel_values, resize_square},
};

/// Decodes the named pictures of the folder.
pub(super) fn decode_all(golden_dir: &Path, names: &[String]) -> Result<Vec<Picture>, TraceError> {
    names
        .iter()
        .map(|name| {
            let bytes = read(&golden_dir.join("images").join(name))?;
            decode(&bytes, &DecodeLimits::default())
                .map_err(|source| TraceError::Picture { name: name.clone(), source })
        })
        .collect()
}

/// Pixels `(1, 3, S, S)` of each picture for the caption path; traces every step of their making.
pub(super) fn caption_pixels(
    pictures: &[Picture],
    model: &TinyGptV,
    run: &str,
    tensors: &mut TraceTensors,
) -> Result<Vec<Tensor>, TraceError> {
    let size = model.config().image_size;
    pictures
        .iter()
        .enumerate()
        .map(|(index, picture)| {
            let (width, height) = (picture.width as usize, picture.height as usize);
            let image = format!("img{index}");
            tensors.below(&image).bytes("decoded_rgb_u8", &picture.rgb, height, width)?;
            let square = resize_square(picture, size);
            let pixels = pixel_values(&[&square], model.device())?;
            let mut below = tensors.below(run);
            let mut below = below.below(&image);
            below.bytes("resized_u8", &square.rgb, size, size)?;
            below.put("pixel_values", pixels.squeeze(0)?)?;
            Ok(pixels)
        })
        .collect()
}

/// Pixels `(1, 3, S, S)` of each picture for the retrieval heads.
pub(super) fn retrieval_pixels(pictures: &[Picture], model: &TinyGptV) -> Result<Vec<Tensor>, TraceError> {
    let size = model.retrieval().ok_or(ModelError::NoRetrieval)?.config().image_size;
    pictures
        .iter()
        .map(|picture| Ok(pixel_values(&[&resize_square(picture, size)], model.device())?))
        .collect()
}
