//! A fixed random rotation: signs and Hadamard transforms.

/// Rounds of signs and transform: two mix every value with every other.
const ROUNDS: usize = 2;

/// Turns vectors of one length; every program makes the same one.
#[derive(Debug, Clone)]
pub(super) struct Rotation {
    signs: [Vec<f32>; ROUNDS],
}

impl Rotation {
    /// `length` is a power of two.
    pub(super) fn new(length: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |_| {
            // SplitMix64: its numbers must never change, because segments hold what was turned with them.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            if (mixed ^ (mixed >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
        };
        Self { signs: std::array::from_fn(|_| (0..length).map(&mut draw).collect()) }
    }

    /// Turns `values` in place, keeping its length.
    pub(super) fn turn(&self, values: &mut [f32]) {
        let norm = 1.0 / (values.len() as f32).sqrt();
        for signs in &self.signs {
            for (value, sign) in values.iter_mut().zip(signs) {
                *value *= sign * norm;
            }
            transform(values);
        }
    }
}

/// The Walsh-Hadamard transform, not normalised.
fn transform(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::Rotation;

    #[test]
    fn lengths_and_angles_stay() {
        let rotation = Rotation::new(64);
        let (mut one, mut other): (Vec<f32>, Vec<f32>) =
            (0..64).map(|at| ((at as f32).sin(), (at as f32 * 0.3).cos())).unzip();
        let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let before = (dot(&one, &one), dot(&one, &other));
        rotation.turn(&mut one);
        rotation.turn(&mut other);
        assert!((dot(&one, &one) - before.0).abs() < 1e-3);
        assert!((dot(&one, &other) - before.1).abs() < 1e-3);
    }
}
