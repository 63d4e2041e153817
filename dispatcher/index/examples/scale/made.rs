//! Vectors made on the fly: the same ones whenever they are asked for.

use half::f16;

/// Vectors of an item.
pub(crate) const VECTORS: usize = 32;
/// Values of a vector.
pub(crate) const DIM: usize = 256;
const CENTRES: u64 = 1_000;
/// How far items lie from their centre, as a share of its length.
const SPREAD: f32 = 0.5;

/// Vectors to look for.
pub(crate) type Query = Vec<Vec<f32>>;

/// How vectors lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anywhere.
    Random,
    /// Around centres.
    Clustered,
}

struct Dice(u64);

fn mixed(number: u64) -> u64 {
    let mut mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Dice {
    /// Every stream and number begins somewhere else. The beginning must be mixed: draws go on by adding a constant, so
    /// beginnings that lie multiples of it apart would be the same numbers, shifted.
    fn new(stream: u64, number: u64) -> Self {
        Self(mixed(number ^ mixed(stream)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A random direction.
    fn unit(&mut self) -> Vec<f32> {
        // Four sums of two 8-bit numbers a draw: near enough to normal in 256 dimensions.
        let mut vector: Vec<f32> = (0..DIM / 4)
            .flat_map(|_| {
                self.next()
                    .to_le_bytes()
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|pair| f32::from(pair[0]) + f32::from(pair[1]) - 255.0)
                    .collect::<Vec<_>>()
            })
            .collect();
        normalise(&mut vector);
        vector
    }
}

/// Makes it a unit vector.
pub(crate) fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in vector.iter_mut() {
        *value /= norm;
    }
}

fn near(centre: &[f32], dice: &mut Dice, spread: f32) -> Vec<f32> {
    let mut vector: Vec<f32> =
        centre.iter().zip(dice.unit()).map(|(centre, noise)| centre + spread * noise).collect();
    normalise(&mut vector);
    vector
}

/// `VECTORS` vectors of an item or of a picture query: in a cluster all vectors of an item have centres of their own.
pub(crate) fn vectors(kind: Kind, stream: u64, number: u64) -> Query {
    let mut dice = Dice::new(stream, number);
    let cluster = dice.next() % CENTRES;
    (0..VECTORS as u64)
        .map(|lane| match kind {
            Kind::Random => dice.unit(),
            Kind::Clustered => {
                let centre = Dice::new(3, cluster * VECTORS as u64 + lane).unit();
                near(&centre, &mut dice, SPREAD)
            }
        })
        .collect()
}

/// The vectors of an item, one after the other.
pub(crate) fn item(kind: Kind, number: usize) -> Vec<f16> {
    vectors(kind, 1, number as u64).into_iter().flatten().map(f16::from_f32).collect()
}
