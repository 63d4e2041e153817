//! Scenes: what is in a picture and where, sampled from a seed.

use crate::arrangement::{Arrangement, Kind, Split};
use crate::dice::{Dice, mix};
use crate::layout::{self, Placed};
use crate::vocabulary::{Backdrop, Colour, Shape};

/// How the picture is lit and printed; none of it is ever told in words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Brightness factor of the whole picture, about 1.
    pub light: f32,
    /// Warmth: red is multiplied by `1 + warmth`, blue by `1 - warmth`.
    pub warmth: f32,
    /// Direction of the light in radians.
    pub direction: f32,
    /// Brightness difference across the backdrop, in levels.
    pub gradient: f32,
    /// Strength of the backdrop's texture, in levels.
    pub texture: f32,
    /// Which texture: 0 none, 1 weave, 2 stripes, 3 blotches.
    pub pattern: usize,
    /// Standard deviation of the pixel noise, in levels.
    pub noise: f32,
    /// Base level of the backdrop, 0–255.
    pub level: f32,
    /// Seed of texture and noise.
    pub seed: u64,
}

/// One scene: enough to draw it and to say everything about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// What is in it.
    pub arrangement: Arrangement,
    /// What is behind.
    pub backdrop: Backdrop,
    /// Width divided by height of the picture it is meant for.
    pub aspect: f32,
    /// Where exactly every object lies.
    pub placed: Vec<Placed>,
    /// Light, texture and noise.
    pub look: Look,
}

/// Width by height of the pictures that scenes are meant for.
const ASPECTS: [f32; 5] = [1.0, 1.0, 1.25, 0.8, 1.12];

impl Look {
    fn any(dice: &mut Dice, backdrop: Backdrop) -> Self {
        let level = match backdrop {
            Backdrop::White => dice.between(226.0, 250.0),
            Backdrop::Gray => dice.between(112.0, 146.0),
            Backdrop::Black => dice.between(14.0, 38.0),
        };
        Self {
            light: dice.between(0.92, 1.05),
            warmth: dice.between(-0.03, 0.03),
            direction: dice.between(0.0, std::f32::consts::TAU),
            gradient: dice.between(0.0, 22.0),
            texture: dice.between(1.0, 6.0),
            pattern: dice.below(4),
            noise: dice.between(0.0, 4.5),
            level,
            seed: dice.bits(),
        }
    }
}

impl Scene {
    /// The scene of `seed` in `split`.
    #[must_use]
    pub fn sample(seed: u64, split: Split) -> Self {
        let mut dice = Dice::new(seed);
        let mut arrangement = Arrangement::any(&mut dice);
        while arrangement.split() != split {
            arrangement = Arrangement::any(&mut dice);
        }
        let backdrop = dice.pick(Backdrop::ALL);
        let aspect = dice.pick(&ASPECTS);
        let placed = layout::place(&arrangement, aspect, &mut dice);
        let look = Look::any(&mut dice, backdrop);
        Self { arrangement, backdrop, aspect, placed, look }
    }

    /// The scene of `seed` with one of its kinds in a colour or a shape, or both, that no other scene has. Everything else
    /// is as in [`Scene::sample`].
    #[must_use]
    pub fn with_something_new(seed: u64, split: Split) -> Self {
        let mut scene = Self::sample(seed, split);
        let mut dice = Dice::new(mix(seed));
        let old = dice.pick(&scene.kinds());
        let mut new = old;
        let which = dice.below(3);
        if which != 0 {
            new.colour = dice.pick(Colour::NEW);
        }
        if which != 1 {
            new.shape = dice.pick(Shape::NEW);
        }
        let change = |kind: &mut Kind| {
            if *kind == old {
                *kind = new;
            }
        };
        match &mut scene.arrangement {
            Arrangement::Single { thing, .. } => change(&mut thing.kind),
            Arrangement::Pair { first, second, .. } => {
                change(&mut first.kind);
                change(&mut second.kind);
            }
            Arrangement::Group { kind, .. } => change(kind),
        }
        scene.placed.iter_mut().for_each(|object| change(&mut object.kind));
        scene
    }

    /// How many objects of `shape` are in the picture.
    #[must_use]
    pub fn count_of(&self, shape: Shape) -> usize {
        self.placed.iter().filter(|object| object.kind.shape == shape).count()
    }

    /// The things that the arrangement names: one or two, for a group its kind.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        match self.arrangement {
            Arrangement::Single { thing, .. } => vec![thing.kind],
            Arrangement::Pair { first, second, .. } => vec![first.kind, second.kind],
            Arrangement::Group { kind, .. } => vec![kind],
        }
    }
}
