//! Bytes of a picture to the network's input, as the reference does it.
//!
//! The reference opens pictures with Pillow, converts them to RGB and resizes them with Pillow's
//! fixed-point bicubic filter. Everything here gives the same pixels, number for number: alpha is dropped
//! without compositing, CMYK becomes RGB by Pillow's plain formula, 16-bit grey is clipped at 255 rather
//! than scaled, EXIF orientation is not applied, and JPEG is decoded by libjpeg-turbo's own arithmetic.
//!
//! Bytes are untrusted: the format is found by content, never by name, and size limits are checked on the
//! header, before anything of the picture's size is allocated.

mod decode;
mod error;
mod footprint;
mod gif;
mod ico;
mod jpeg;
mod libjpeg;
mod picture;
mod pixels;
mod pnm;
mod raster;
mod resample;
mod resize;
mod tiff;
mod webp;

pub use decode::{DecodeLimits, decode};
pub use error::DecodeError;
pub use footprint::footprint;
pub use libjpeg::is_accelerated as jpeg_is_accelerated;
pub use picture::{Picture, PreparedPicture, SquareImage};
pub use pixels::pixel_values;
pub use resize::{prepare, resize_square};
