//! Scenes: what is in a picture and where, sampled from a seed.

use crate::dice::{Dice, mix};
use crate::layout::{self, Placed};
use crate::vocabulary::{Backdrop, Colour, Place, Relation, Shape, Size};

/// Which arrangements a scene may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The arrangements that training sees.
    Train,
    /// The arrangements that training never sees.
    HeldOut,
}

/// A shape in a colour: the identity of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Its paint.
    pub colour: Colour,
    /// Its outline.
    pub shape: Shape,
}

/// A kind of a stated size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thing {
    /// Small or large.
    pub size: Size,
    /// Shape and colour.
    pub kind: Kind,
}

/// What is in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arrangement {
    /// One object at a place.
    Single {
        /// The object.
        thing: Thing,
        /// Its place.
        place: Place,
    },
    /// Two objects of different kinds.
    Pair {
        /// The left or the upper one.
        first: Thing,
        /// The right or the lower one.
        second: Thing,
        /// [`Relation::LeftOf`] or [`Relation::Above`].
        relation: Relation,
    },
    /// Two to four objects of one kind.
    Group {
        /// The kind of all of them.
        kind: Kind,
        /// How many.
        count: usize,
    },
}

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

/// Percentage of arrangements kept from training.
const HELD_OUT_PERCENT: u64 = 8;
/// Width by height of the pictures that scenes are meant for.
const ASPECTS: [f32; 5] = [1.0, 1.0, 1.25, 0.8, 1.12];

impl Arrangement {
    /// Draws an arrangement of either split.
    fn any(dice: &mut Dice) -> Self {
        let roll = dice.unit();
        if roll < 0.22 {
            return Self::Single { thing: Thing::any(dice), place: dice.pick(Place::ALL) };
        }
        if roll < 0.76 {
            let first = Thing::any(dice);
            let mut second = Thing::any(dice);
            while second.kind == first.kind {
                second = Thing::any(dice);
            }
            let relation = dice.pick(&[Relation::LeftOf, Relation::Above]);
            return Self::Pair { first, second, relation };
        }
        Self::Group { kind: Thing::any(dice).kind, count: 2 + dice.below(3) }
    }

    /// The split that this arrangement belongs to: a hash of kinds, relation, place and count (sizes do not matter).
    #[must_use]
    pub fn split(&self) -> Split {
        let key = match *self {
            Self::Single { thing, place } => [1, thing.kind.code(), place.code(), 0],
            Self::Pair { first, second, relation } => {
                [2, first.kind.code(), second.kind.code(), relation.code()]
            }
            Self::Group { kind, count } => [3, kind.code(), count, 0],
        };
        let hash = key.iter().fold(7_u64, |hash, part| mix(hash.wrapping_mul(131) + *part as u64));
        if hash % 100 < HELD_OUT_PERCENT { Split::HeldOut } else { Split::Train }
    }
}

impl Kind {
    /// A number below `Shape::ALL.len() * Colour::ALL.len()`.
    fn code(self) -> usize {
        self.colour.code() * Shape::ALL.len() + self.shape.code()
    }
}

impl Thing {
    fn any(dice: &mut Dice) -> Self {
        Self {
            size: dice.pick(Size::ALL),
            kind: Kind { colour: dice.pick(Colour::ALL), shape: dice.pick(Shape::ALL) },
        }
    }
}

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
