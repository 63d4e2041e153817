//! Questions about a scene and the answers that count as right.

use crate::arrangement::{Arrangement, Kind, Thing};
use crate::dice::Dice;
use crate::scene::Scene;
use crate::texts::{noun_phrase, place_words, relation_words};
use crate::vocabulary::{Backdrop, Colour, Relation, Shape, Size, count_word};

/// One question about a scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The question as a person may type it.
    pub text: String,
    /// The accepted answers; the first is the one that training teaches.
    pub answers: Vec<String>,
}

impl Question {
    fn new(text: String, answers: impl IntoIterator<Item = String>) -> Self {
        Self { text, answers: answers.into_iter().collect() }
    }

    /// Whether `answer` is accepted: case, articles, punctuation and British spelling do not matter.
    #[must_use]
    pub fn accepts(&self, answer: &str) -> bool {
        let given = plain(answer);
        self.answers.iter().any(|accepted| plain(accepted) == given)
    }
}

/// The words of an answer without what does not matter.
fn plain(answer: &str) -> Vec<String> {
    answer
        .to_lowercase()
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| {
            !matches!(*word, "" | "a" | "an" | "the" | "it" | "is" | "are" | "there" | "in" | "on" | "at")
        })
        .map(|word| if word == "grey" { "gray" } else { word }.to_owned())
        .collect()
}

/// A question before its wording: all wordings share the answers.
struct Topic {
    wordings: Vec<String>,
    answers: Vec<String>,
}

impl Topic {
    fn new(wordings: &[&str], answers: &[&str]) -> Self {
        Self {
            wordings: wordings.iter().map(ToString::to_string).collect(),
            answers: answers.iter().map(ToString::to_string).collect(),
        }
    }

    /// Replaces `{}` in every wording.
    fn about(wordings: &[&str], subject: &str, answers: &[&str]) -> Self {
        let mut topic = Self::new(wordings, answers);
        for wording in &mut topic.wordings {
            *wording = wording.replace("{}", subject);
        }
        topic
    }
}

const COLOUR_ONE: [&str; 5] = [
    "what color is the {}?",
    "what colour is the {}?",
    "which color is the {}?",
    "what is the color of the {}?",
    "what is the colour of the {}?",
];
const COLOUR_MANY: [&str; 4] = [
    "what color are the {}?",
    "what colour are the {}?",
    "which color are the {}?",
    "what is the color of the {}?",
];
const SHAPE_ONE: [&str; 6] = [
    "what shape is {}?",
    "what is the {} shape?",
    "what is the {} object?",
    "what is the {} thing?",
    "what shape is the {} object?",
    "which shape is {}?",
];
const SIZE_ONE: [&str; 5] = [
    "how big is the {}?",
    "how large is the {}?",
    "what size is the {}?",
    "what is the size of the {}?",
    "is the {} small or large?",
];
const COUNT: [&str; 4] = [
    "how many {} are there?",
    "how many {} do you see?",
    "how many {} are in the picture?",
    "how many {} can you see?",
];
const EXISTS: [&str; 4] =
    ["is there {}?", "is there {} in the picture?", "do you see {}?", "can you see {}?"];
const BACKDROP: [&str; 6] = [
    "what color is the background?",
    "what colour is the background?",
    "what is the background color?",
    "what is the background colour?",
    "what is the color of the background?",
    "which color is the background?",
];
const WHAT_IS: [&str; 4] =
    ["what is {}?", "which object is {}?", "which shape is {}?", "what do you see {}?"];
const WHERE: [&str; 4] = [
    "where is the {}?",
    "where is the {} in the picture?",
    "where do you see the {}?",
    "where can you see the {}?",
];

/// One question with its answers, drawn at random with a random wording.
pub fn sample_question(scene: &Scene, dice: &mut Dice) -> Question {
    let mut topics = topics(scene, dice);
    let topic = topics.swap_remove(dice.below(topics.len()));
    let mut text = topic.wordings[dice.below(topic.wordings.len())].clone();
    match dice.below(6) {
        0 => text.truncate(text.len() - 1),
        1 | 2 => capitalise(&mut text),
        _ => {}
    }
    Question::new(text, topic.answers)
}

/// Questions about `scene` in their plainest wording, one of every sort that fits; `dice` draws the things that are not there.
#[must_use]
pub fn questions(scene: &Scene, dice: &mut Dice) -> Vec<Question> {
    topics(scene, dice)
        .into_iter()
        .filter_map(|topic| {
            let mut text = topic.wordings.first()?.clone();
            capitalise(&mut text);
            Some(Question::new(text, topic.answers))
        })
        .collect()
}

/// Which sort of question a text is, of those that [`questions`] asks: `backdrop`, `count`, `colour`, `size`, `place`,
/// `shape`, `exists`, or `relation` between two things.
#[must_use]
pub fn sort_of(question: &str) -> &'static str {
    let question = question.to_lowercase();
    let says = |words: &str| question.contains(words);
    let yes_or_no = ["is there", "do you see", "can you see"].iter().any(|words| question.starts_with(words));
    if says("background") {
        "backdrop"
    } else if question.starts_with("how many") {
        "count"
    } else if yes_or_no {
        "exists"
    } else if says("color") || says("colour") {
        "colour"
    } else if says("size") || says("how big") || says("how large") || says("small or large") {
        "size"
    } else if question.starts_with("where") {
        "place"
    } else if [" left", " right", "above", "below", "over", "under"].iter().any(|words| says(words)) {
        "relation"
    } else {
        "shape"
    }
}

fn capitalise(text: &mut str) {
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
}

fn topics(scene: &Scene, dice: &mut Dice) -> Vec<Topic> {
    let backdrop: &[&str] = match scene.backdrop {
        Backdrop::White => &["white"],
        Backdrop::Gray => &["gray", "grey"],
        Backdrop::Black => &["black"],
    };
    let mut topics = vec![
        Topic::new(&BACKDROP, backdrop),
        count_objects(scene),
        exists(scene, dice),
        exists(scene, dice),
        count_shape(scene, dice.pick(Shape::ALL)),
    ];
    match scene.arrangement {
        Arrangement::Single { thing, place } => {
            topics.extend(of_thing(thing, scene));
            let subject = either(thing.kind, dice);
            topics.push(Topic::about(&WHERE, &subject, place_words(place)));
        }
        Arrangement::Pair { first, second, relation } => {
            topics.extend(of_thing(first, scene));
            topics.extend(of_thing(second, scene));
            topics.push(count_shape(scene, first.kind.shape));
            topics.push(beside(first, second, relation, scene, dice));
            topics.push(beside(second, first, relation.inverse(), scene, dice));
            topics.push(truly_beside(first, second, relation, scene, dice));
        }
        Arrangement::Group { kind, .. } => {
            topics.push(Topic::about(&COLOUR_MANY, kind.shape.plural(), &[kind.colour.word()]));
            let shapes = [kind.shape.plural(), kind.shape.word()];
            topics.push(Topic::new(
                &["what shape are they?", "what are they?", "which shape are they?", "what do you see?"],
                &shapes,
            ));
            topics.push(count_shape(scene, kind.shape));
            let painted = format!("{} {}", kind.colour.word(), kind.shape.plural());
            topics.push(counted(&painted, scene.placed.len()));
        }
    }
    topics
}

/// Colour, shape and size of one thing, as far as a short name points at it alone.
fn of_thing(thing: Thing, scene: &Scene) -> Vec<Topic> {
    let kinds = scene.kinds();
    let alone_in_shape = kinds.iter().filter(|kind| kind.shape == thing.kind.shape).count() == 1;
    let alone_in_colour = kinds.iter().filter(|kind| kind.colour == thing.kind.colour).count() == 1;
    let full = format!("{} {}", thing.kind.colour.word(), thing.kind.shape.word());
    let mut topics = vec![size(&full, thing.size)];
    if alone_in_shape {
        topics.push(Topic::about(&COLOUR_ONE, thing.kind.shape.word(), &[thing.kind.colour.word()]));
        topics.push(size(thing.kind.shape.word(), thing.size));
    }
    if alone_in_colour {
        topics.push(Topic::about(&SHAPE_ONE, thing.kind.colour.word(), &[thing.kind.shape.word()]));
    }
    topics
}

fn size(subject: &str, size: Size) -> Topic {
    match size {
        Size::Small => Topic::about(&SIZE_ONE, subject, &["small", "little"]),
        Size::Large => Topic::about(&SIZE_ONE, subject, &["large", "big"]),
    }
}

fn counted(subject: &str, count: usize) -> Topic {
    let digit = count.to_string();
    let none: &[&str] = if count == 0 { &["none", "no"] } else { &[] };
    let mut answers = vec![count_word(count), digit.as_str()];
    answers.extend(none);
    Topic::about(&COUNT, subject, &answers)
}

fn count_objects(scene: &Scene) -> Topic {
    let mut topic = counted("objects", scene.placed.len());
    topic.wordings.extend(counted("shapes", scene.placed.len()).wordings);
    topic
}

fn count_shape(scene: &Scene, shape: Shape) -> Topic {
    counted(shape.plural(), scene.count_of(shape))
}

/// Whether a kind, a shape or a colour is in the picture; half of them are.
fn exists(scene: &Scene, dice: &mut Dice) -> Topic {
    let kinds = scene.kinds();
    let mut kind = dice.pick(&kinds);
    if dice.chance(0.6) {
        if dice.chance(0.6) {
            kind.shape = dice.pick(Shape::ALL);
        }
        if dice.chance(0.6) {
            kind.colour = dice.pick(Colour::ALL);
        }
    }
    let by_shape = dice.chance(0.5);
    let there =
        kinds.iter().any(|found| found.shape == kind.shape && (by_shape || found.colour == kind.colour));
    let subject = if by_shape { format!("a {}", kind.shape.word()) } else { noun_phrase(kind, None) };
    Topic::about(&EXISTS, &subject, &[if there { "yes" } else { "no" }])
}

/// "circle" or "red circle".
fn either(kind: Kind, dice: &mut Dice) -> String {
    if dice.chance(0.5) {
        kind.shape.word().to_owned()
    } else {
        format!("{} {}", kind.colour.word(), kind.shape.word())
    }
}

/// A name that points at `kind` alone in `scene`.
fn name_of(kind: Kind, scene: &Scene, dice: &mut Dice) -> String {
    let shapes = scene.kinds().iter().filter(|other| other.shape == kind.shape).count();
    if shapes == 1 { either(kind, dice) } else { format!("{} {}", kind.colour.word(), kind.shape.word()) }
}

/// "what is above the blue square?"
fn beside(answer: Thing, other: Thing, relation: Relation, scene: &Scene, dice: &mut Dice) -> Topic {
    let words = dice.pick(relation_words(relation));
    let subject = format!("{words} the {}", name_of(other.kind, scene, dice));
    let full = noun_phrase(answer.kind, Some(answer.size));
    let short = noun_phrase(answer.kind, None);
    Topic::about(&WHAT_IS, &subject, &[&full, &short, answer.kind.shape.word()])
}

/// "is the circle left of the square?", true or turned round.
fn truly_beside(one: Thing, other: Thing, relation: Relation, scene: &Scene, dice: &mut Dice) -> Topic {
    let truth = dice.chance(0.5);
    let stated = if truth { relation } else { relation.inverse() };
    let words = dice.pick(relation_words(stated));
    let (one, other, turned) = if dice.chance(0.5) { (one, other, false) } else { (other, one, true) };
    let question = format!(
        "is the {} {words} the {}?",
        name_of(one.kind, scene, dice),
        name_of(other.kind, scene, dice)
    );
    let yes = truth != turned;
    Topic::new(&[&question], &[if yes { "yes" } else { "no" }])
}
