//! Brightness and differences of colour to red, green and blue.
//!
//! The arithmetic of ITU-R BT.601 and its followers; colours that several pixels share are interpolated between their
//! places, as `chroma_location` tells them.

use super::pixels::{Matrix, Planar};

/// A difference of colour of nothing.
const NEUTRAL: f32 = 128.0;

/// Factors of the way to red, green and blue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Colours {
    black: f32,
    brightness: f32,
    red_cr: f32,
    green_cb: f32,
    green_cr: f32,
    blue_cb: f32,
}

impl Colours {
    pub(super) fn of(planar: Planar) -> Self {
        let (red, blue) = match planar.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
            Matrix::Fcc => (0.30, 0.11),
            Matrix::Smpte240 => (0.212, 0.087),
        };
        let (black, brightness, difference) =
            if planar.is_full { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
        let (to_red, to_blue) = (2.0 * (1.0 - red) * difference, 2.0 * (1.0 - blue) * difference);
        let green = 1.0 - red - blue;
        Self {
            black,
            brightness,
            red_cr: to_red,
            green_cb: -to_blue * blue / green,
            green_cr: -to_red * red / green,
            blue_cb: to_blue,
        }
    }

    /// Red, green and blue of a pixel, as far as a byte holds them.
    pub(super) fn rgb(&self, y: f32, cb: f32, cr: f32) -> [u8; 3] {
        let (light, cb, cr) = ((y - self.black) * self.brightness, cb - NEUTRAL, cr - NEUTRAL);
        let colours = [
            light + self.red_cr * cr,
            light + self.green_cb * cb + self.green_cr * cr,
            light + self.blue_cb * cb,
        ];
        colours.map(|colour| (colour + 0.5) as u8)
    }
}

/// Turns planes of `width` x `height` pixels into three bytes a pixel.
pub(super) fn to_rgb(planes: [&[u8]; 3], planar: Planar, width: usize, height: usize) -> Vec<u8> {
    let colours = Colours::of(planar);
    let [ys, cbs, crs] = planes;
    let [mut cb, mut cr] = [cbs, crs].map(|plane| Spread::new(plane, planar, width, height));
    let mut rgb = vec![0; width * height * 3];
    let lines = rgb.chunks_exact_mut((width * 3).max(1)).zip(ys.chunks_exact(width.max(1)));
    for (row, (line, ys)) in lines.enumerate() {
        let shared = cb.row(row).iter().zip(cr.row(row));
        for ((pixel, y), (cb, cr)) in line.as_chunks_mut::<3>().0.iter_mut().zip(ys).zip(shared) {
            *pixel = colours.rgb(f32::from(*y), *cb, *cr);
        }
    }
    rgb
}

/// A plane of colour, spread over all pixels.
struct Spread<'a> {
    plane: &'a [u8],
    planar: Planar,
    /// Size of the plane.
    columns: usize,
    rows: usize,
    /// One row of it, between the stored ones; the outermost colours are there twice, so that each has two neighbours.
    line: Vec<f32>,
    /// The same for each pixel, and one more where that makes pairs of them.
    spread: Vec<f32>,
}

impl<'a> Spread<'a> {
    fn new(plane: &'a [u8], planar: Planar, width: usize, height: usize) -> Self {
        let (columns, rows) = planar.colours(width, height);
        Self { plane, planar, columns, rows, line: vec![0.0; columns + 2], spread: vec![0.0; 2 * columns] }
    }

    /// The colours of a row of pixels, at least as many as it has.
    fn row(&mut self, row: usize) -> &[f32] {
        let (near, far) = if self.planar.halves_rows() { neighbours(row, self.rows) } else { (row, row) };
        let stored = |row: usize| &self.plane[row * self.columns..(row + 1) * self.columns];
        let last = self.columns;
        for ((value, near), far) in self.line[1..=last].iter_mut().zip(stored(near)).zip(stored(far)) {
            *value = between(f32::from(*near), f32::from(*far));
        }
        if !self.planar.halves_columns() {
            return &self.line[1..=last];
        }
        (self.line[0], self.line[last + 1]) = (self.line[1], self.line[last]);
        // One loop for each place, without a look at it for every pixel: the compiler takes several pixels at once.
        let pairs = self.spread.as_chunks_mut::<2>().0.iter_mut().zip(self.line.windows(3));
        if self.planar.is_left {
            pairs.for_each(|(pair, near)| *pair = [near[1], f32::midpoint(near[1], near[2])]);
        } else {
            pairs.for_each(|(pair, near)| *pair = [between(near[1], near[0]), between(near[1], near[2])]);
        }
        &self.spread
    }
}

/// The two of `count` samples that the pixel `at` lies between, the nearer one first.
fn neighbours(at: usize, count: usize) -> (usize, usize) {
    let near = at / 2;
    (near, if at.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(count - 1) })
}

/// The colour a quarter of the way from one sample to the next.
fn between(near: f32, far: f32) -> f32 {
    0.75 * near + 0.25 * far
}

#[cfg(test)]
mod tests {
    use super::super::pixels::Sharing;
    use super::{Colours, Matrix, Planar, Spread, to_rgb};

    const PLAIN: Planar =
        Planar { sharing: Sharing::Four, is_left: false, is_full: false, matrix: Matrix::Bt601 };

    #[test]
    fn known_colours_are_told() {
        let full = Planar { is_full: true, ..PLAIN };
        let broad = Planar { matrix: Matrix::Bt709, ..PLAIN };
        for (planar, [y, cb, cr], expected) in [
            (PLAIN, [235_u8, 128, 128], [255, 255, 255]),
            (PLAIN, [16, 128, 128], [0, 0, 0]),
            (PLAIN, [81, 90, 240], [255, 0, 0]),
            (PLAIN, [145, 54, 34], [0, 255, 0]),
            (full, [76, 85, 255], [255, 0, 0]),
            (full, [128, 128, 128], [128, 128, 128]),
            (broad, [63, 102, 240], [255, 0, 0]),
            (broad, [32, 240, 118], [0, 0, 255]),
            (PLAIN, [255, 255, 255], [255, 125, 255]),
        ] {
            let told = Colours::of(planar).rgb(f32::from(y), f32::from(cb), f32::from(cr));
            let is_near = |(told, expected): (u8, u8)| told.abs_diff(expected) <= 2;
            assert!(told.into_iter().zip(expected).all(is_near), "{planar:?}: {told:?}, not {expected:?}");
        }
    }

    #[test]
    fn shared_colours_lie_where_they_are_said_to() {
        let row = |plane: &[u8], planar, width, height, row| {
            Spread::new(plane, planar, width, height).row(row)[..width].to_vec()
        };
        let left = Planar { is_left: true, ..PLAIN };
        assert_eq!(row(&[100, 200], PLAIN, 4, 2, 0), [100.0, 125.0, 175.0, 200.0]);
        assert_eq!(row(&[100, 200], left, 4, 2, 1), [100.0, 150.0, 200.0, 200.0]);
        assert_eq!(row(&[100, 200], PLAIN, 3, 1, 0), [100.0, 125.0, 175.0]);
        let below = |at| row(&[100, 200], left, 1, 3, at);
        assert_eq!([below(0), below(1), below(2)], [[100.0], [125.0], [175.0]]);
        let broad = Planar { sharing: Sharing::Two, ..PLAIN };
        assert_eq!(row(&[1, 2, 3, 4], broad, 4, 2, 1), [3.0, 3.25, 3.75, 4.0]);
        let own = Planar { sharing: Sharing::One, ..PLAIN };
        assert_eq!(row(&[1, 2, 3, 4], own, 2, 2, 1), [3.0, 4.0]);
    }

    #[test]
    fn frames_of_any_size_are_converted_up_to_their_edges() {
        for (width, height) in [(1, 1), (3, 5), (4, 2), (17, 1)] {
            let (columns, rows) = PLAIN.colours(width, height);
            let planes = [vec![81_u8; width * height], vec![90; columns * rows], vec![240; columns * rows]];
            let rgb = to_rgb([&planes[0], &planes[1], &planes[2]], PLAIN, width, height);
            assert_eq!(rgb.len(), width * height * 3);
            assert!(rgb.as_chunks::<3>().0.iter().all(|pixel| *pixel == rgb[..3]), "{width} x {height}");
        }
    }
}
