//! What a text claims about a picture, and whether it is so.

use crate::arrangement::{Arrangement, Kind};
use crate::scene::Scene;
use crate::vocabulary::{Backdrop, Colour, Place, Relation, Shape, Size};

/// One thing that a text mentions; `None` where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mention {
    /// How many; "a" and "an" count as 1.
    pub count: Option<usize>,
    /// The size.
    pub size: Option<Size>,
    /// The colour.
    pub colour: Option<Colour>,
    /// The shape.
    pub shape: Option<Shape>,
}

/// Everything a text claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// The things mentioned, in the order of the text.
    pub mentions: Vec<Mention>,
    /// The relation of the first mention to the second.
    pub relation: Option<Relation>,
    /// The place of the only mention.
    pub place: Option<Place>,
    /// The backdrop.
    pub backdrop: Option<Backdrop>,
}

impl Mention {
    /// One object of `kind`, the size stated or not.
    #[must_use]
    pub fn one(kind: Kind, size: Option<Size>) -> Self {
        Self { count: Some(1), size, colour: Some(kind.colour), shape: Some(kind.shape) }
    }

    /// Whether everything stated agrees with `count` objects of `kind` and `size` (groups have no size).
    fn agrees(&self, count: usize, kind: Kind, size: Option<Size>) -> bool {
        self.count.is_none_or(|stated| stated == count)
            && self.colour.is_none_or(|stated| stated == kind.colour)
            && self.shape.is_none_or(|stated| stated == kind.shape)
            && (self.size.is_none() || size.is_none() || self.size == size)
    }
}

impl Claim {
    /// Whether nothing in the claim is wrong for `scene`; a claim may leave things out.
    #[must_use]
    pub fn holds(&self, scene: &Scene) -> bool {
        if self.backdrop.is_some_and(|stated| stated != scene.backdrop) {
            return false;
        }
        let mentions = self.mentions.as_slice();
        match (scene.arrangement, mentions) {
            (_, []) => self.relation.is_none() && self.place.is_none(),
            (Arrangement::Single { thing, place }, [only]) => {
                self.relation.is_none()
                    && self.place.is_none_or(|stated| stated == place)
                    && only.agrees(1, thing.kind, Some(thing.size))
            }
            (Arrangement::Group { kind, count }, [only]) => {
                self.relation.is_none() && self.place.is_none() && only.agrees(count, kind, None)
            }
            (Arrangement::Pair { first, second, .. }, [only]) => {
                self.relation.is_none()
                    && self.place.is_none()
                    && (only.agrees(1, first.kind, Some(first.size))
                        || only.agrees(1, second.kind, Some(second.size))
                        || self.both(scene, *only))
            }
            (Arrangement::Pair { first, second, relation }, [one, other]) => {
                let agree = |a: &Mention, b: &Mention| {
                    a.agrees(1, first.kind, Some(first.size)) && b.agrees(1, second.kind, Some(second.size))
                };
                let straight = agree(one, other) && self.relation.is_none_or(|stated| stated == relation);
                let turned =
                    agree(other, one) && self.relation.is_none_or(|stated| stated.inverse() == relation);
                self.place.is_none() && (straight || turned)
            }
            _ => false,
        }
    }

    /// "two stars" or "two red shapes" for a pair that shares what is stated.
    fn both(&self, scene: &Scene, only: Mention) -> bool {
        only.count == Some(2)
            && self.mentions.len() == 1
            && only.size.is_none()
            && scene.kinds().iter().all(|kind| {
                only.colour.is_none_or(|stated| stated == kind.colour)
                    && only.shape.is_none_or(|stated| stated == kind.shape)
            })
    }

    /// Whether the claim says everything a caption must: shape and colour of every object, and the relation or the count.
    #[must_use]
    pub fn is_complete(&self, scene: &Scene) -> bool {
        let named = self.mentions.iter().all(|mention| mention.colour.is_some() && mention.shape.is_some());
        named
            && match scene.arrangement {
                Arrangement::Single { .. } => self.mentions.len() == 1,
                Arrangement::Pair { .. } => self.mentions.len() == 2 && self.relation.is_some(),
                Arrangement::Group { .. } => self.mentions.len() == 1 && self.mentions[0].count.is_some(),
            }
    }
}
