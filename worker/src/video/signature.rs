//! How much two frames differ, in a way that neither noise nor small movements of the camera exaggerate.
//!
//! A frame is averaged down to 32 x 32 cells of colour, which takes noise and compression out. Two frames differ by
//! the mean difference of the most different of 8 x 8 fields of 4 x 4 cells: a small thing that comes or goes fills a
//! good part of its field, although it is nothing beside the whole picture.

use super::Frame;
use super::colour::Colours;
use super::pixels::Pixels;

/// Cells a side.
const CELLS: usize = 32;
/// Fields a side.
const FIELDS: usize = 8;
/// Cells a side of a field.
const FIELD: usize = CELLS / FIELDS;
/// Rows of bytes whose sums two bytes hold.
const ROWS: usize = (u16::MAX / u8::MAX as u16) as usize;

/// A frame as it is compared.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// Mean colours, row by row, three bytes a cell.
    cells: Box<[u8; CELLS * CELLS * 3]>,
}

impl Signature {
    /// Of a frame, whatever its pixels: a mean of brightness and differences of colour is that of red, green and blue.
    pub(super) fn of(frame: &Frame) -> Self {
        let (width, height) = (frame.width, frame.height);
        match frame.pixels {
            Pixels::Rgb => {
                Self::new(means(&frame.bytes, width, height).into_iter().map(|mean| mean.map(byte)))
            }
            Pixels::Planar(planar) => {
                let (columns, rows) = planar.colours(width, height);
                let [ys, cbs, crs] = frame.planes(columns * rows);
                let colours = Colours::of(planar);
                let (cbs, crs) = (means(cbs, columns, rows), means(crs, columns, rows));
                let cells = means(ys, width, height).into_iter().zip(cbs).zip(crs);
                Self::new(cells.map(|(([y], [cb]), [cr])| colours.rgb(y, cb, cr)))
            }
        }
    }

    fn new(means: impl Iterator<Item = [u8; 3]>) -> Self {
        let mut cells = Box::new([0; CELLS * CELLS * 3]);
        for (cell, mean) in cells.as_chunks_mut::<3>().0.iter_mut().zip(means) {
            *cell = mean;
        }
        Self { cells }
    }

    /// How much they differ: 0 for equal frames, 1 where one has a black field and the other a white one.
    pub fn distance(&self, other: &Self) -> f64 {
        let mut sums = [0_u32; FIELDS * FIELDS];
        for (index, (one, other)) in self.cells.iter().zip(other.cells.iter()).enumerate() {
            let (row, column) = (index / (CELLS * 3), index / 3 % CELLS);
            sums[row / FIELD * FIELDS + column / FIELD] += u32::from(one.abs_diff(*other));
        }
        let most = sums.into_iter().max().unwrap_or(0);
        f64::from(most) / (255 * FIELD * FIELD * 3) as f64
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signature")
    }
}

/// The means of all cells, row by row, of a plane of `N` bytes a pixel.
fn means<const N: usize>(plane: &[u8], width: usize, height: usize) -> Vec<[f32; N]> {
    let stride = (width * N).max(1);
    let mut means = Vec::with_capacity(CELLS * CELLS);
    let mut sums = vec![0; width * N];
    for row in 0..CELLS {
        let rows = span(row, height);
        let mut totals = [[0_u64; N]; CELLS];
        for rows in plane[rows.start * stride..rows.end * stride].chunks(ROWS * stride) {
            add_rows(&mut sums, rows);
            for (column, totals) in totals.iter_mut().enumerate() {
                let columns = span(column, width);
                for pixel in sums[columns.start * N..columns.end * N].as_chunks::<N>().0 {
                    for (total, sum) in totals.iter_mut().zip(pixel) {
                        *total += u64::from(*sum);
                    }
                }
            }
        }
        for (column, totals) in totals.into_iter().enumerate() {
            let pixels = (rows.len() * span(column, width).len()).max(1) as f32;
            means.push(totals.map(|total| total as f32 / pixels));
        }
    }
    means
}

/// Adds up whole rows, at most [`ROWS`] of them, which the compiler does for many columns at once: the narrower the sums,
/// the more.
fn add_rows(sums: &mut [u16], rows: &[u8]) {
    sums.fill(0);
    for row in rows.chunks_exact(sums.len().max(1)) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += u16::from(*value);
        }
    }
}

fn byte(mean: f32) -> u8 {
    (mean + 0.5) as u8
}

/// The pixels of a cell; at least one, so that small frames work, too.
fn span(cell: usize, pixels: usize) -> std::ops::Range<usize> {
    let start = (cell * pixels / CELLS).min(pixels.saturating_sub(1));
    start..((cell + 1) * pixels / CELLS).max(start + 1).min(pixels)
}

#[cfg(test)]
mod tests {
    use super::super::pixels::{Pixels, Told};
    use super::{Frame, Signature};

    fn rgb(width: usize, height: usize, bytes: Vec<u8>) -> Signature {
        Signature::of(&Frame { ms: 0, width, height, pixels: Pixels::Rgb, bytes })
    }

    fn grey(width: usize, height: usize, value: u8) -> Vec<u8> {
        vec![value; width * height * 3]
    }

    /// A planar frame of one colour, but for a square of another in its middle.
    fn square(format: &str, around: [u8; 3], within: [u8; 3]) -> Frame {
        let (width, height) = (321, 241);
        let pixels = Pixels::of(Told { format: Some(format), ..Told::default() });
        let Pixels::Planar(planar) = pixels else { panic!("{format} is planar") };
        let sizes = [(width, height), planar.colours(width, height), planar.colours(width, height)];
        let mut bytes = Vec::new();
        for ((columns, rows), (around, within)) in sizes.into_iter().zip(around.into_iter().zip(within)) {
            let is_within = |at: usize, length: usize| (2 * length / 5..3 * length / 5).contains(&at);
            bytes.extend((0..rows * columns).map(|at| {
                let (row, column) = (at / columns, at % columns);
                if is_within(row, rows) && is_within(column, columns) { within } else { around }
            }));
        }
        Frame { ms: 0, width, height, pixels, bytes }
    }

    #[test]
    fn equal_frames_do_not_differ_and_opposites_do() {
        for (width, height) in [(1, 1), (33, 7), (320, 240), (2, 20_000)] {
            let [black, white] = [0, 255].map(|value| rgb(width, height, grey(width, height, value)));
            assert!(black.distance(&black) == 0.0 && black.distance(&white) == 1.0, "{width} x {height}");
        }
    }

    #[test]
    fn noise_is_little_and_a_small_thing_is_much() {
        let (width, height) = (320, 240);
        let still = rgb(width, height, grey(width, height, 100));
        let mut noisy = grey(width, height, 100);
        for (index, value) in noisy.iter_mut().enumerate() {
            *value = 90 + (index * 7919 % 21) as u8;
        }
        assert!(still.distance(&rgb(width, height, noisy)) < 0.01);
        let mut thing = grey(width, height, 100);
        for y in 100..116 {
            thing[(y * width + 100) * 3..(y * width + 116) * 3].fill(255);
        }
        assert!(still.distance(&rgb(width, height, thing)) > 0.05);
    }

    #[test]
    fn a_thing_of_the_same_brightness_is_seen_by_its_colour() {
        for format in ["yuv420p", "yuv422p", "yuv444p"] {
            let plain = square(format, [120, 128, 128], [120, 128, 128]).signature();
            let coloured = square(format, [120, 128, 128], [120, 90, 190]).signature();
            assert!(plain.distance(&coloured) > 0.05, "{format}: {}", plain.distance(&coloured));
        }
    }

    #[test]
    fn the_measure_does_not_depend_on_how_pixels_are_stored() {
        let (before, behind) = ([90, 100, 150], [160, 150, 110]);
        for format in ["yuv420p", "yuv422p", "yuv444p", "yuvj420p"] {
            let frames = || [square(format, before, behind), square(format, behind, before)];
            let [one, other] = frames().map(|frame| frame.signature());
            let [same, changed] = frames().map(|frame| rgb(frame.width, frame.height, frame.into_rgb()));
            assert!(one.distance(&same) < 0.01, "{format}: {}", one.distance(&same));
            assert!((one.distance(&other) - same.distance(&changed)).abs() < 0.01, "{format}");
        }
    }
}
