//! A frame that was chosen.

use super::colour::to_rgb;
use super::pixels::Pixels;
use super::{Film, Signature};

/// A frame that was chosen.
pub struct Frame {
    /// When it is shown.
    pub ms: u64,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Pixels,
    /// As many as such a frame has.
    pub(super) bytes: Vec<u8>,
}

impl Frame {
    /// A frame of `film`; `bytes` are as many as its frames have.
    pub(super) fn new(film: &Film, ms: u64, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(bytes.len(), film.pixels.bytes(film.width, film.height));
        Self { ms, width: film.width as usize, height: film.height as usize, pixels: film.pixels, bytes }
    }

    /// The frame as it is compared with others.
    pub fn signature(&self) -> Signature {
        Signature::of(self)
    }

    /// The frame as pictures are: `height * width * 3` bytes of red, green and blue.
    pub fn into_rgb(self) -> Vec<u8> {
        match self.pixels {
            Pixels::Rgb => self.bytes,
            Pixels::Planar(planar) => {
                let (columns, rows) = planar.colours(self.width, self.height);
                to_rgb(self.planes(columns * rows), planar, self.width, self.height)
            }
        }
    }

    /// Brightness and the two differences of colour, of `colours` bytes each.
    pub(super) fn planes(&self, colours: usize) -> [&[u8]; 3] {
        let (brightness, both) = self.bytes.split_at(self.width * self.height);
        let (cb, cr) = both.split_at(colours);
        [brightness, cb, cr]
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("ms", &self.ms).finish_non_exhaustive()
    }
}
