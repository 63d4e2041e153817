//! Where the objects of an arrangement lie.

use crate::arrangement::{Arrangement, Kind};
use crate::dice::Dice;
use crate::vocabulary::{Place, Relation, Size};

/// One object as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Shape and colour.
    pub kind: Kind,
    /// Centre, as a share of the width.
    pub x: f32,
    /// Centre, as a share of the height.
    pub y: f32,
    /// Radius of the disc of the same visual size, as a share of the square root of width times height.
    pub radius: f32,
    /// Turn in radians.
    pub tilt: f32,
    /// Change of the paint's brightness, -1..1.
    pub shade: f32,
}

/// Room for an object's points beyond its radius, as a factor.
const REACH: f32 = 1.12;

/// Places every object of `arrangement` in a picture of `aspect`.
pub(crate) fn place(arrangement: &Arrangement, aspect: f32, dice: &mut Dice) -> Vec<Placed> {
    let spots = match *arrangement {
        Arrangement::Single { thing, place } => {
            let (column, row) = (place.code() % 3, place.code() / 3);
            let grid = [0.25, 0.5, 0.75];
            let radius = radius_of(thing.size, dice);
            let jitter = 0.035;
            let spot = (
                thing.kind,
                grid[column] + dice.between(-jitter, jitter),
                grid[row] + dice.between(-jitter, jitter),
                radius,
            );
            debug_assert_eq!(Place::ALL.len(), 9);
            vec![spot]
        }
        Arrangement::Pair { first, second, relation } => {
            let shift = dice.between(-0.13, 0.13);
            let mut spots = Vec::with_capacity(2);
            for (thing, along) in [(first, 0.25), (second, 0.75)] {
                let along = along + dice.between(-0.025, 0.025);
                let across = 0.5 + shift + dice.between(-0.07, 0.07);
                let radius = radius_of(thing.size, dice);
                if relation == Relation::LeftOf {
                    spots.push((thing.kind, along, across, radius));
                } else {
                    spots.push((thing.kind, across, along, radius));
                }
            }
            spots
        }
        Arrangement::Group { kind, count } => {
            let (slots, largest) = group_slots(count, dice);
            let radius = dice.between(0.118, largest);
            slots
                .iter()
                .map(|&(x, y)| {
                    let jitter = 0.02;
                    (
                        kind,
                        x + dice.between(-jitter, jitter),
                        y + dice.between(-jitter, jitter),
                        radius * dice.between(0.95, 1.05),
                    )
                })
                .collect()
        }
    };
    spots
        .into_iter()
        .map(|(kind, x, y, radius)| {
            let (wide, high) = (radius * REACH / aspect.sqrt(), radius * REACH * aspect.sqrt());
            Placed {
                kind,
                x: x.clamp(wide.min(0.5), 1.0 - wide.min(0.5)),
                y: y.clamp(high.min(0.5), 1.0 - high.min(0.5)),
                radius,
                tilt: dice.between(-0.16, 0.16),
                shade: dice.between(-1.0, 1.0),
            }
        })
        .collect()
}

fn radius_of(size: Size, dice: &mut Dice) -> f32 {
    match size {
        Size::Small => dice.between(0.118, 0.134),
        Size::Large => dice.between(0.178, 0.2),
    }
}

/// Centres for a group, and the largest radius that keeps the objects apart.
fn group_slots(count: usize, dice: &mut Dice) -> (Vec<(f32, f32)>, f32) {
    let variants: &[(&[(f32, f32)], f32)] = match count {
        2 => &[
            (&[(0.27, 0.5), (0.73, 0.5)], 0.185),
            (&[(0.5, 0.27), (0.5, 0.73)], 0.185),
            (&[(0.28, 0.28), (0.72, 0.72)], 0.19),
            (&[(0.72, 0.28), (0.28, 0.72)], 0.19),
        ],
        3 => &[
            (&[(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)], 0.13),
            (&[(0.5, 0.18), (0.5, 0.5), (0.5, 0.82)], 0.13),
            (&[(0.5, 0.25), (0.26, 0.73), (0.74, 0.73)], 0.17),
            (&[(0.26, 0.27), (0.74, 0.27), (0.5, 0.75)], 0.17),
            (&[(0.2, 0.22), (0.5, 0.5), (0.8, 0.78)], 0.14),
        ],
        _ => &[
            (&[(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)], 0.17),
            (&[(0.5, 0.19), (0.2, 0.5), (0.8, 0.5), (0.5, 0.81)], 0.14),
        ],
    };
    let (slots, largest) = variants[dice.below(variants.len())];
    (slots.to_vec(), largest)
}
