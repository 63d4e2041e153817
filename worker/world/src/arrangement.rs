//! What is in a picture, before anything is placed.

use crate::dice::{Dice, mix};
use crate::vocabulary::{Colour, Place, Relation, Shape, Size};

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

/// Percentage of arrangements kept from training.
const HELD_OUT_PERCENT: u64 = 8;

impl Arrangement {
    /// Draws an arrangement of either split.
    pub(crate) fn any(dice: &mut Dice) -> Self {
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
