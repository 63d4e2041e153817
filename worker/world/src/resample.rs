//! Shrinking and growing pictures as the model's preprocessing does: bicubic with the support widened when shrinking.

use image::RgbImage;

/// The cubic kernel with a = -0.5, nonzero in -2..2.
fn kernel(x: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// For every output position the first input position and the weights, which sum to 1.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = as_f32(from) / as_f32(to);
    let widen = scale.max(1.0);
    let reach = 2.0 * widen;
    (0..to)
        .map(|position| {
            let centre = (as_f32(position) + 0.5) * scale;
            let first = round_down(centre - reach + 0.5);
            let last = round_down(centre + reach + 0.5).min(from);
            let weights: Vec<f32> =
                (first..last).map(|index| kernel((as_f32(index) + 0.5 - centre) / widen)).collect();
            let sum: f32 = weights.iter().sum();
            (first, weights.into_iter().map(|weight| weight / sum).collect())
        })
        .collect()
}

/// `picture` at `width` x `height`, horizontal pass first, each pass rounded to 8 bits.
#[must_use]
pub fn resample(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
    let (to_width, to_height) = (width as usize, height as usize);
    let source = picture.as_raw();
    let columns = taps(from_width, to_width);
    let mut middle = Vec::with_capacity(to_width * from_height * 3);
    for row in source.chunks_exact(from_width * 3) {
        for (first, weights) in &columns {
            let mut sums = [0.0_f32; 3];
            for (weight, pixel) in weights.iter().zip(row[first * 3..].chunks_exact(3)) {
                for (sum, level) in sums.iter_mut().zip(pixel) {
                    *sum += weight * f32::from(*level);
                }
            }
            middle.extend(sums.map(to_level));
        }
    }
    let stride = to_width * 3;
    let mut levels = Vec::with_capacity(stride * to_height);
    let mut sums = vec![0.0_f32; stride];
    for (first, weights) in taps(from_height, to_height) {
        sums.fill(0.0);
        for (weight, row) in weights.iter().zip(middle[first * stride..].chunks_exact(stride)) {
            for (sum, level) in sums.iter_mut().zip(row) {
                *sum += weight * f32::from(*level);
            }
        }
        levels.extend(sums.iter().copied().map(to_level));
    }
    RgbImage::from_raw(width, height, levels).expect("one level was pushed for every channel")
}

fn as_f32(value: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "picture sides are far below 2^24")]
    let value = value as f32;
    value
}

fn round_down(value: f32) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped at 0, and picture sides are small"
    )]
    let value = value.max(0.0) as usize;
    value
}

fn to_level(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=255 before the cast"
    )]
    let level = (value + 0.5).clamp(0.0, 255.0) as u8;
    level
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = RgbImage::from_fn(13, 7, |x, y| Rgb([x as u8 * 19, y as u8 * 31, 200]));
        assert_eq!(resample(&picture, 13, 7), picture);
    }

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let picture = RgbImage::from_pixel(50, 31, Rgb([10, 128, 250]));
        for (width, height) in [(7, 9), (112, 112), (51, 30)] {
            let resized = resample(&picture, width, height);
            assert!(resized.pixels().all(|pixel| *pixel == Rgb([10, 128, 250])));
        }
    }

    #[test]
    fn halving_averages_around_every_pixel() {
        // Black left half, white right half: the edge lands between two pixels and stays sharp but ringing.
        let picture = RgbImage::from_fn(8, 4, |x, _| Rgb([if x < 4 { 0 } else { 255 }; 3]));
        let row: Vec<u8> = resample(&picture, 4, 2).pixels().take(4).map(|pixel| pixel[0]).collect();
        assert!(row[0] < 10 && row[1] < 40 && row[2] > 215 && row[3] > 245, "{row:?}");
    }
}
