//! Learned picture positions, interpolated to another grid.
use candle_core::{Result, Tensor};

/// Coefficient of the cubic kernel; differs from the -0.5 of the picture resize.
const A: f64 = -0.75;

/// Brings a position table `(1, 1 + from², D)` to `(1, 1 + to², D)`: the class row is kept, the
/// grid is interpolated bicubically without antialiasing, pixel centres aligned at half pixels and
/// borders clamped.
pub(crate) fn interpolate(table: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    if from == to {
        return Ok(table.clone());
    }
    let width = table.dim(2)?;
    let class = table.narrow(1, 0, 1)?;
    let grid = table.narrow(1, 1, from * from)?.reshape((from, from * width))?;
    // One matrix of taps serves both directions: rows first, then columns.
    let taps = Tensor::from_vec(taps(from, to), (to, from), table.device())?;
    let rows = taps.matmul(&grid)?.reshape((to, from, width))?;
    let columns = taps.unsqueeze(0)?.broadcast_as((to, to, from))?.contiguous()?.matmul(&rows)?;
    Tensor::cat(&[class, columns.reshape((1, to * to, width))?], 1)
}

/// Row `o` holds the weights of the old positions in new position `o`.
fn taps(from: usize, to: usize) -> Vec<f32> {
    let mut taps = vec![0.0; from * to];
    let scale = from as f64 / to as f64;
    for (o, row) in taps.chunks_exact_mut(from).enumerate() {
        let centre = (o as f64 + 0.5) * scale - 0.5;
        let first = centre.floor();
        for tap in -1..=2 {
            let position = first + f64::from(tap);
            let clamped = position.clamp(0.0, (from - 1) as f64) as usize;
            row[clamped] += kernel((centre - position).abs()) as f32;
        }
    }
    taps
}

fn kernel(x: f64) -> f64 {
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn doubling_uses_the_reference_taps() {
        let taps = taps(16, 32);
        // Output 5 samples at 2.25, output 6 at 2.75.
        let expected = [-0.105_468_75, 0.878_906_25, 0.261_718_75, -0.035_156_25];
        for (tap, expected) in expected.iter().enumerate() {
            assert!((taps[5 * 16 + 1 + tap] - expected).abs() < 1e-7);
            assert!((taps[6 * 16 + 4 - tap] - expected).abs() < 1e-7);
        }
        for row in taps.chunks_exact(16) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn class_row_stays_and_a_flat_grid_stays_flat() {
        let mut values = vec![3.0f32; 1 + 4 * 4];
        values[0] = 7.0;
        let table = Tensor::from_vec(values, (1, 17, 1), &Device::Cpu).unwrap();
        for to in [2, 4, 7] {
            let out = interpolate(&table, 4, to).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(out.len(), 1 + to * to);
            assert!((out[0] - 7.0).abs() < 1e-6);
            assert!(out[1..].iter().all(|v| (v - 3.0).abs() < 1e-5));
        }
    }
}
