//! Pictures to squares, by Pillow's `resize(…, BICUBIC)`.

use super::resample::{Weights, horizontal, vertical};
use super::{Picture, PreparedPicture, SquareImage};
use crate::ModelConfig;

/// Squeeze a picture into a square; the aspect ratio is not kept, as in the reference. Every byte equals
/// Pillow's: columns first, rounded to bytes, then rows.
pub fn resize_square(picture: &Picture, size: usize) -> SquareImage {
    let (width, height) = (picture.width as usize, picture.height as usize);
    if width == 0 || height == 0 || size == 0 {
        return SquareImage { size, rgb: vec![0; size * size * 3] };
    }
    let narrowed;
    let columns = if width == size {
        &picture.rgb
    } else {
        narrowed = horizontal(&picture.rgb, width, &Weights::bicubic(width, size));
        &narrowed
    };
    let rgb = if height == size {
        columns.clone()
    } else {
        vertical(columns, size, &Weights::bicubic(height, size))
    };
    SquareImage { size, rgb }
}

/// Everything the engine needs of a picture: one square, or two if the retrieval heads want another size.
pub fn prepare(picture: &Picture, config: &ModelConfig) -> PreparedPicture {
    let other_size =
        config.retrieval.as_ref().map(|heads| heads.image_size).filter(|size| *size != config.image_size);
    PreparedPicture {
        width: picture.width,
        height: picture.height,
        caption: resize_square(picture, config.image_size),
        retrieval: other_size.map(|size| resize_square(picture, size)),
    }
}
