//! How much two frames differ, in a way that neither noise nor small movements of the camera exaggerate.
//!
//! A frame is averaged down to 32 x 32 cells of colour, which takes noise and compression out. Two frames differ by
//! the mean difference of the most different of 8 x 8 fields of 4 x 4 cells: a small thing that comes or goes fills a
//! good part of its field, although it is nothing beside the whole picture.

/// Cells a side.
const CELLS: usize = 32;
/// Fields a side.
const FIELDS: usize = 8;
/// Cells a side of a field.
const FIELD: usize = CELLS / FIELDS;

/// A frame as it is compared.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// Mean colours, row by row, three bytes a cell.
    cells: Box<[u8; CELLS * CELLS * 3]>,
}

impl Signature {
    /// Of a frame of `width` x `height` pixels of three bytes.
    pub fn of(rgb: &[u8], width: usize, height: usize) -> Self {
        let mut cells = Box::new([0; CELLS * CELLS * 3]);
        for row in 0..CELLS {
            let rows = span(row, height);
            let mut sums = [0_u64; CELLS * 3];
            for y in rows.clone() {
                let line = &rgb[y * width * 3..(y + 1) * width * 3];
                for (column, sum) in sums.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    let columns = span(column, width);
                    // Within a row the sums fit into 32 bits, which the compiler adds up side by side.
                    let mut part = [0_u32; 3];
                    for pixel in line[columns.start * 3..columns.end * 3].as_chunks::<3>().0 {
                        part[0] += u32::from(pixel[0]);
                        part[1] += u32::from(pixel[1]);
                        part[2] += u32::from(pixel[2]);
                    }
                    for (sum, part) in sum.iter_mut().zip(part) {
                        *sum += u64::from(part);
                    }
                }
            }
            for column in 0..CELLS {
                let pixels = (rows.len() * span(column, width).len()).max(1) as u64;
                for colour in 0..3 {
                    cells[(row * CELLS + column) * 3 + colour] = (sums[column * 3 + colour] / pixels) as u8;
                }
            }
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

/// The pixels of a cell; at least one, so that small frames work, too.
fn span(cell: usize, pixels: usize) -> std::ops::Range<usize> {
    let start = (cell * pixels / CELLS).min(pixels.saturating_sub(1));
    start..((cell + 1) * pixels / CELLS).max(start + 1).min(pixels)
}

#[cfg(test)]
mod tests {
    use super::Signature;

    fn grey(width: usize, height: usize, value: u8) -> Vec<u8> {
        vec![value; width * height * 3]
    }

    #[test]
    fn equal_frames_do_not_differ_and_opposites_do() {
        for (width, height) in [(1, 1), (33, 7), (320, 240)] {
            let (black, white) = (grey(width, height, 0), grey(width, height, 255));
            let [black, white] = [black, white].map(|frame| Signature::of(&frame, width, height));
            assert!(black.distance(&black) == 0.0 && black.distance(&white) == 1.0, "{width} x {height}");
        }
    }

    #[test]
    fn noise_is_little_and_a_small_thing_is_much() {
        let (width, height) = (320, 240);
        let still = Signature::of(&grey(width, height, 100), width, height);
        let mut noisy = grey(width, height, 100);
        for (index, value) in noisy.iter_mut().enumerate() {
            *value = 90 + (index * 7919 % 21) as u8;
        }
        assert!(still.distance(&Signature::of(&noisy, width, height)) < 0.01);
        let mut thing = grey(width, height, 100);
        for y in 100..116 {
            thing[(y * width + 100) * 3..(y * width + 116) * 3].fill(255);
        }
        assert!(still.distance(&Signature::of(&thing, width, height)) > 0.05);
    }
}
