//! What is said about a scene: captions and search texts.

use crate::arrangement::{Arrangement, Kind, Thing};
use crate::claim::{Claim, Mention};
use crate::dice::Dice;
use crate::scene::Scene;
use crate::vocabulary::{Backdrop, Colour, Place, Relation, Size, count_word};

/// A text with what it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The words.
    pub text: String,
    /// Their meaning.
    pub claim: Claim,
}

/// Openings of captions.
const OPENINGS: [&str; 4] = ["", "there is ", "a picture of ", "this picture shows "];
/// Openings of search texts.
const SEARCH_OPENINGS: [&str; 8] =
    ["", "", "", "a photo of ", "a picture of ", "an image of ", "find ", "show me "];

/// "a" or "an" before `word`.
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// "a large red circle", without the size "a red circle".
pub(crate) fn noun_phrase(kind: Kind, size: Option<Size>) -> String {
    let words = match size {
        Some(size) => format!("{} {} {}", size.word(), kind.colour.word(), kind.shape.word()),
        None => format!("{} {}", kind.colour.word(), kind.shape.word()),
    };
    format!("{} {words}", article(&words))
}

/// "three green stars".
fn group_phrase(kind: Kind, count: usize) -> String {
    format!("{} {} {}", count_word(count), kind.colour.word(), kind.shape.plural())
}

/// The wordings of a relation.
pub(crate) fn relation_words(relation: Relation) -> &'static [&'static str] {
    match relation {
        Relation::LeftOf => &["left of", "to the left of"],
        Relation::RightOf => &["right of", "to the right of"],
        Relation::Above => &["above"],
        Relation::Below => &["below"],
    }
}

/// The wordings of a place.
pub(crate) fn place_words(place: Place) -> &'static [&'static str] {
    match place {
        Place::TopLeft => &["in the top left", "in the top left corner"],
        Place::Top => &["at the top"],
        Place::TopRight => &["in the top right", "in the top right corner"],
        Place::Left => &["on the left"],
        Place::Center => &["in the center", "in the middle"],
        Place::Right => &["on the right"],
        Place::BottomLeft => &["in the bottom left", "in the bottom left corner"],
        Place::Bottom => &["at the bottom"],
        Place::BottomRight => &["in the bottom right", "in the bottom right corner"],
    }
}

/// "on a white background".
fn backdrop_phrase(backdrop: Backdrop) -> String {
    format!("on a {} background", backdrop.word())
}

/// The cores of all captions: what every wording shares, with the meaning.
fn cores(scene: &Scene) -> Vec<Told> {
    let claim = |mentions: Vec<Mention>| Claim { mentions, ..Claim::default() };
    match scene.arrangement {
        Arrangement::Single { thing, place } => place_words(place)
            .iter()
            .map(|words| Told {
                text: format!("{} {words}", thing.phrase()),
                claim: Claim { place: Some(place), ..claim(vec![thing.mention()]) },
            })
            .collect(),
        Arrangement::Pair { first, second, relation } => {
            [(first, second, relation), (second, first, relation.inverse())]
                .into_iter()
                .flat_map(|(one, other, relation)| {
                    relation_words(relation).iter().map(move |words| Told {
                        text: format!("{} {words} {}", one.phrase(), other.phrase()),
                        claim: Claim {
                            relation: Some(relation),
                            ..claim(vec![one.mention(), other.mention()])
                        },
                    })
                })
                .collect()
        }
        Arrangement::Group { kind, count } => vec![Told {
            text: group_phrase(kind, count),
            claim: claim(vec![Mention {
                count: Some(count),
                colour: Some(kind.colour),
                shape: Some(kind.shape),
                size: None,
            }]),
        }],
    }
}

impl Thing {
    /// "a large red circle".
    fn phrase(self) -> String {
        noun_phrase(self.kind, Some(self.size))
    }

    fn mention(self) -> Mention {
        Mention::one(self.kind, Some(self.size))
    }
}

/// Every acceptable caption, the plainest wording first.
#[must_use]
pub fn captions(scene: &Scene) -> Vec<Told> {
    let several = matches!(scene.arrangement, Arrangement::Group { .. });
    let mut all = Vec::new();
    for opening in OPENINGS {
        let opening = if several && opening == "there is " { "there are " } else { opening };
        for core in cores(scene) {
            let plain = format!("{opening}{}", core.text);
            let mut with_backdrop = core.claim.clone();
            with_backdrop.backdrop = Some(scene.backdrop);
            all.push(Told {
                text: format!("{plain} {}", backdrop_phrase(scene.backdrop)),
                claim: with_backdrop,
            });
            all.push(Told { text: plain, claim: core.claim });
        }
    }
    all
}

/// One caption for training: mostly the plain opening, usually with the backdrop.
pub fn sample_caption(scene: &Scene, dice: &mut Dice) -> Told {
    let all = captions(scene);
    let per_opening = all.len() / OPENINGS.len();
    let opening = if dice.chance(0.7) { 0 } else { dice.below(OPENINGS.len()) };
    let core = dice.below(per_opening / 2);
    let without_backdrop = usize::from(dice.chance(0.2));
    all[opening * per_opening + core * 2 + without_backdrop].clone()
}

/// The text to search this scene with: it says everything, the backdrop too.
#[must_use]
pub fn retrieval_text(scene: &Scene) -> String {
    captions(scene).swap_remove(0).text
}

/// One search text for training: a full one, or a short one that may fit other scenes too.
pub fn sample_search(scene: &Scene, dice: &mut Dice) -> Told {
    let mut told = if dice.chance(0.65) {
        let core = cores(scene);
        let mut told = core[dice.below(core.len())].clone();
        if dice.chance(0.2) {
            drop_sizes(&mut told, scene, dice);
        }
        told
    } else {
        short(scene, dice)
    };
    if dice.chance(0.5) {
        told.claim.backdrop = Some(scene.backdrop);
        told.text = match dice.below(4) {
            0 => format!("{} on {}", told.text, scene.backdrop.word()),
            _ => format!("{} {}", told.text, backdrop_phrase(scene.backdrop)),
        };
    }
    told.text = format!("{}{}", dice.pick(&SEARCH_OPENINGS), told.text);
    if dice.chance(0.25) {
        told.text = told.text.replace("gray", "grey");
    }
    if dice.chance(0.1) {
        told.text = told.text.replace("large", "big").replace("small", "little");
    }
    if dice.chance(0.15) {
        told.text = ["a ", "an "]
            .iter()
            .find_map(|article| told.text.strip_prefix(article))
            .unwrap_or(&told.text)
            .to_owned();
    }
    told
}

/// Retells a full text without the sizes.
fn drop_sizes(told: &mut Told, scene: &Scene, dice: &mut Dice) {
    let kinds: Vec<String> = told
        .claim
        .mentions
        .iter()
        .filter_map(|mention| {
            let kind = Kind { colour: mention.colour?, shape: mention.shape? };
            mention.size.map(|_| noun_phrase(kind, None))
        })
        .collect();
    let text = match (scene.arrangement, kinds.as_slice(), told.claim.relation) {
        (Arrangement::Single { place, .. }, [only], _) => {
            format!("{only} {}", dice.pick(place_words(place)))
        }
        (Arrangement::Pair { .. }, [one, other], Some(relation)) => {
            format!("{one} {} {other}", dice.pick(relation_words(relation)))
        }
        _ => return,
    };
    told.text = text;
    for mention in &mut told.claim.mentions {
        mention.size = None;
    }
}

/// A short search text: one thing, two things without their relation, or a group with parts left out.
fn short(scene: &Scene, dice: &mut Dice) -> Told {
    match scene.arrangement {
        Arrangement::Single { thing, .. } => short_thing(thing, dice),
        Arrangement::Pair { first, second, .. } => {
            let (one, other) = if dice.chance(0.5) { (first, second) } else { (second, first) };
            if dice.chance(0.6) {
                return short_thing(one, dice);
            }
            let (size_one, size_other) =
                if dice.chance(0.5) { (None, None) } else { (Some(one.size), Some(other.size)) };
            Told {
                text: format!(
                    "{} and {}",
                    noun_phrase(one.kind, size_one),
                    noun_phrase(other.kind, size_other)
                ),
                claim: Claim {
                    mentions: vec![Mention::one(one.kind, size_one), Mention::one(other.kind, size_other)],
                    ..Claim::default()
                },
            }
        }
        Arrangement::Group { kind, count } => short_group(kind, count, dice),
    }
}

fn short_thing(thing: Thing, dice: &mut Dice) -> Told {
    let size = dice.chance(0.4).then_some(thing.size);
    let mut mention = Mention::one(thing.kind, size);
    let text = match dice.below(8) {
        0 => {
            mention.colour = None;
            match size {
                Some(size) => format!("a {} {}", size.word(), thing.kind.shape.word()),
                None => format!("a {}", thing.kind.shape.word()),
            }
        }
        1 => {
            mention.shape = None;
            mention.size = None;
            something(thing.kind.colour)
        }
        _ => noun_phrase(thing.kind, size),
    };
    Told { text, claim: Claim { mentions: vec![mention], ..Claim::default() } }
}

/// "a red shape".
fn something(colour: Colour) -> String {
    format!("{} {} shape", article(colour.word()), colour.word())
}

fn short_group(kind: Kind, count: usize, dice: &mut Dice) -> Told {
    let mut mention =
        Mention { count: Some(count), colour: Some(kind.colour), shape: Some(kind.shape), size: None };
    let text = match dice.below(4) {
        0 => {
            mention.colour = None;
            format!("{} {}", count_word(count), kind.shape.plural())
        }
        1 => {
            mention.count = None;
            format!("{} {}", kind.colour.word(), kind.shape.plural())
        }
        2 => {
            mention.shape = None;
            format!("{} {} shapes", count_word(count), kind.colour.word())
        }
        _ => group_phrase(kind, count),
    };
    Told { text, claim: Claim { mentions: vec![mention], ..Claim::default() } }
}
