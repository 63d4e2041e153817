//! Reading a caption back and judging it.

use crate::claim::{Claim, Mention};
use crate::scene::Scene;
use crate::vocabulary::{Backdrop, Colour, Place, Relation, Shape, Size, count_word};

/// The verdict on a produced caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It states every object's shape and colour and the relation or the count, and nothing that it states is wrong.
    Correct,
    /// Nothing in it is wrong, but something is missing.
    Incomplete,
    /// Something in it is wrong.
    Wrong,
    /// It cannot be read as a sentence about this world.
    Unreadable,
}

/// Judges `caption` for `scene`.
#[must_use]
pub fn check_caption(caption: &str, scene: &Scene) -> Verdict {
    let Some(claim) = read(caption) else {
        return Verdict::Unreadable;
    };
    match (claim.holds(scene), claim.is_complete(scene)) {
        (true, true) => Verdict::Correct,
        (true, false) => Verdict::Incomplete,
        (false, _) => Verdict::Wrong,
    }
}

/// What a caption claims; `None` when it has words that this world does not know, or no object.
#[must_use]
pub fn read(caption: &str) -> Option<Claim> {
    let lower = caption.to_lowercase().replace("grey", "gray").replace("colour", "color");
    let words: Vec<&str> =
        lower.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut reader = Reader::default();
    let mut rest = words.as_slice();
    while let Some((word, after)) = rest.split_first() {
        rest = match reader.phrase(rest) {
            Some(length) => &rest[length..],
            None if reader.word(word) => after,
            None => return None,
        };
    }
    let claim = reader.claim;
    (reader.open == Mention::default() && !claim.mentions.is_empty()).then_some(claim)
}

/// Words that carry no claim.
const FILLERS: [&str; 19] = [
    "the",
    "is",
    "are",
    "there",
    "this",
    "picture",
    "image",
    "photo",
    "of",
    "shows",
    "on",
    "in",
    "at",
    "with",
    "and",
    "to",
    "it",
    "background",
    "corner",
];

#[derive(Default)]
struct Reader {
    claim: Claim,
    /// The mention whose shape has not come yet.
    open: Mention,
}

impl Reader {
    /// Reads a phrase of several words at the start of `words` and says how many it took.
    fn phrase(&mut self, words: &[&str]) -> Option<usize> {
        if let [first, "background", ..] = *words
            && let Some(backdrop) = Backdrop::from_word(first)
        {
            self.claim.backdrop = Some(backdrop);
            // The article belonged to the backdrop.
            self.open.count = None;
            return Some(2);
        }
        let relation = match *words {
            ["left", "of", ..] => Some((Relation::LeftOf, 2)),
            ["right", "of", ..] => Some((Relation::RightOf, 2)),
            ["above", ..] => Some((Relation::Above, 1)),
            ["below", ..] => Some((Relation::Below, 1)),
            _ => None,
        };
        if let Some((relation, length)) = relation {
            self.claim.relation = Some(relation);
            return Some(length);
        }
        // A place follows the object; "in the middle" is another word for the centre.
        if self.claim.mentions.is_empty() {
            return None;
        }
        let two = words.get(..2).map(|pair| pair.join(" "));
        let place = two.as_deref().and_then(Place::from_word).map(|place| (place, 2));
        let one = match words.first() {
            Some(&"middle") => Some(Place::Center),
            Some(word) => Place::from_word(word),
            None => None,
        };
        let (place, length) = place.or(one.map(|place| (place, 1)))?;
        self.claim.place = Some(place);
        Some(length)
    }

    /// Reads one word; false when it is unknown.
    fn word(&mut self, word: &str) -> bool {
        if let Some(size) = Size::from_word(word) {
            self.open.size = Some(size);
        } else if let Some(colour) = Colour::from_word(word) {
            self.open.colour = Some(colour);
        } else if let Some(count) =
            (1..10).find(|count| count_word(*count) == word || count.to_string() == word)
        {
            self.open.count = Some(count);
        } else if word == "a" || word == "an" {
            // "a picture of two stars": the article of a filler is overwritten by what follows.
            self.open.count = Some(1);
        } else if let Some(shape) =
            Shape::ALL.iter().chain(Shape::NEW).find(|shape| shape.word() == word || shape.plural() == word)
        {
            self.open.shape = Some(*shape);
            if self.open.count.is_none() && shape.word() == word {
                self.open.count = Some(1);
            }
            self.claim.mentions.push(std::mem::take(&mut self.open));
        } else if FILLERS.contains(&word) {
            if matches!(word, "picture" | "image" | "photo" | "background") {
                self.open.count = None;
            }
        } else {
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrangement::{Arrangement, Kind, Split, Thing};

    /// A scene with this arrangement; where things lie does not matter to the checker.
    fn scene(arrangement: Arrangement) -> Scene {
        let mut scene = Scene::sample(0, Split::Train);
        scene.arrangement = arrangement;
        scene.backdrop = Backdrop::Gray;
        scene
    }

    fn thing(size: Size, colour: Colour, shape: Shape) -> Thing {
        Thing { size, kind: Kind { colour, shape } }
    }

    fn pair() -> Scene {
        scene(Arrangement::Pair {
            first: thing(Size::Small, Colour::Red, Shape::Circle),
            second: thing(Size::Large, Colour::Blue, Shape::Square),
            relation: Relation::LeftOf,
        })
    }

    #[test]
    fn a_pair_may_be_told_from_either_side() {
        for right in [
            "a small red circle left of a large blue square",
            "A red circle is to the left of a blue square.",
            "there is a large blue square right of a small red circle on a grey background",
        ] {
            assert_eq!(check_caption(right, &pair()), Verdict::Correct, "{right}");
        }
    }

    #[test]
    fn every_wrong_word_is_found() {
        for wrong in [
            "a small red circle right of a large blue square",
            "a large red circle left of a large blue square",
            "a small pink circle left of a large blue square",
            "a small red ring left of a large blue square",
            "a small red circle above a large blue square",
            "a small red circle left of a large blue square on a white background",
            "two red circles left of a large blue square",
            "a small red circle in the top left",
        ] {
            assert_eq!(check_caption(wrong, &pair()), Verdict::Wrong, "{wrong}");
        }
    }

    #[test]
    fn what_is_left_out_is_incomplete_and_nonsense_unreadable() {
        for short in ["a small red circle", "a red circle and a blue square", "a circle left of a square"] {
            assert_eq!(check_caption(short, &pair()), Verdict::Incomplete, "{short}");
        }
        for nonsense in ["", "a dog on a sofa", "a small red", "left of"] {
            assert_eq!(check_caption(nonsense, &pair()), Verdict::Unreadable, "{nonsense}");
        }
    }

    #[test]
    fn counts_and_places_are_judged() {
        let group =
            scene(Arrangement::Group { kind: Kind { colour: Colour::Green, shape: Shape::Cross }, count: 3 });
        assert_eq!(check_caption("there are three green crosses", &group), Verdict::Correct);
        assert_eq!(check_caption("a picture of 3 green crosses", &group), Verdict::Correct);
        assert_eq!(check_caption("two green crosses", &group), Verdict::Wrong);
        assert_eq!(check_caption("green crosses", &group), Verdict::Incomplete);
        let single = scene(Arrangement::Single {
            thing: thing(Size::Large, Colour::Pink, Shape::Star),
            place: Place::TopRight,
        });
        assert_eq!(check_caption("a pink star", &single), Verdict::Correct);
        assert_eq!(check_caption("a large pink star in the top right corner", &single), Verdict::Correct);
        assert_eq!(check_caption("a large pink star at the top", &single), Verdict::Wrong);
        assert_eq!(check_caption("a large pink star in the middle", &single), Verdict::Wrong);
    }
}
