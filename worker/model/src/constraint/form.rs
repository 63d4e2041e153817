//! The forms of values, each an automaton over bytes.

use super::state::State;

/// Numbers that a model may say in words.
const WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];
/// Most digits of a whole number: all of them fit 64 bits.
const MOST_DIGITS: usize = 16;
/// Most places behind the point.
const MOST_PLACES: usize = 6;

/// What a value may be. One blank may stand in front of it and does not count.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueForm {
    /// One of these texts.
    OneOf(Vec<String>),
    /// A whole number within bounds, in digits or as a word up to twenty.
    Integer {
        /// The smallest.
        minimum: i64,
        /// The largest.
        maximum: i64,
    },
    /// A decimal number within bounds, of at most six places.
    Number {
        /// The smallest.
        minimum: f64,
        /// The largest.
        maximum: f64,
    },
    /// One line of at most so many characters; no control characters, no `##`.
    Text {
        /// Most characters.
        most: usize,
    },
}

impl ValueForm {
    /// Yes or no, in the words that models use.
    pub fn boolean() -> Self {
        Self::OneOf(["yes", "no", "true", "false"].map(str::to_owned).to_vec())
    }

    /// The value that an answer of the form [`Self::Integer`] names.
    pub fn integer(said: &str) -> Option<i64> {
        let word = WORDS.iter().position(|word| *word == said).and_then(|at| i64::try_from(at).ok());
        word.or_else(|| said.parse().ok())
    }

    /// After one more byte; `None` if no allowed answer begins so.
    pub fn step(&self, state: &State, byte: u8) -> Option<State> {
        let begins = state.said.is_empty() && state.chars == 0 && state.utf8.is_whole();
        if byte == b' ' && begins {
            return (!state.blank).then(|| State { blank: true, ..state.clone() });
        }
        if let Self::Text { most } = self {
            return text_step(*most, state, byte);
        }
        let mut next = state.clone();
        next.said.push(byte);
        let possible = match self {
            Self::OneOf(values) => values.iter().any(|value| value.as_bytes().starts_with(&next.said)),
            Self::Integer { minimum, maximum } => {
                let words = allowed_words(*minimum, *maximum);
                words.into_iter().any(|word| word.as_bytes().starts_with(&next.said))
                    || may_become_integer(&next.said, *minimum, *maximum)
            }
            Self::Number { minimum, maximum } => may_become_number(&next.said, *minimum, *maximum),
            Self::Text { .. } => false,
        };
        possible.then_some(next)
    }

    /// Whether the answer so far is a whole one.
    pub fn is_complete(&self, state: &State) -> bool {
        let said = std::str::from_utf8(&state.said).unwrap_or_default();
        match self {
            Self::OneOf(values) => values.iter().any(|value| value == said),
            Self::Integer { minimum, maximum } => {
                let digits = said.ends_with(|last: char| last.is_ascii_digit());
                (digits || WORDS.contains(&said))
                    && Self::integer(said).is_some_and(|value| (*minimum..=*maximum).contains(&value))
            }
            Self::Number { minimum, maximum } => {
                said.ends_with(|last: char| last.is_ascii_digit())
                    && said.parse().is_ok_and(|value: f64| (*minimum..=*maximum).contains(&value))
            }
            Self::Text { .. } => state.chars > 0 && state.utf8.is_whole(),
        }
    }

    /// The same state for all answers that may go on alike with tokens of up to `longest` bytes.
    pub(super) fn key(&self, state: &State, longest: usize) -> State {
        match self {
            Self::Text { most } => {
                // Far from the limit, how far does not matter.
                let chars = if most - state.chars > longest { state.chars.min(1) } else { state.chars };
                State { chars, blank: state.blank && chars == 0, ..state.clone() }
            }
            _ => state.clone(),
        }
    }
}

fn text_step(most: usize, state: &State, byte: u8) -> Option<State> {
    let utf8 = state.utf8.step(byte)?;
    let begins_char = state.utf8.is_whole();
    let chars = state.chars + usize::from(begins_char);
    let hash = byte == b'#';
    // C1 controls are U+0080 to U+009F: C2 and one of 80 to 9F. The lead byte stays in `said` until the next.
    let control = byte < 0x20 || byte == 0x7F || (state.said == [0xC2] && byte < 0xA0);
    if chars > most || control || (hash && state.hash) {
        return None;
    }
    let said = if byte == 0xC2 && begins_char { vec![byte] } else { Vec::new() };
    Some(State { blank: state.blank, said, chars, utf8, hash })
}

fn allowed_words(minimum: i64, maximum: i64) -> Vec<&'static str> {
    let within = |at: usize| i64::try_from(at).is_ok_and(|value| (minimum..=maximum).contains(&value));
    WORDS.iter().enumerate().filter(|(at, _)| within(*at)).map(|(_, word)| *word).collect()
}

/// The digits behind the sign, if there are only such and no needless zero in front.
fn digits(said: &[u8]) -> Option<(bool, &[u8])> {
    let (negative, digits) = match said.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, said),
    };
    let plain = digits.iter().all(u8::is_ascii_digit) && digits.len() <= MOST_DIGITS;
    (plain && !(digits.len() > 1 && digits[0] == b'0')).then_some((negative, digits))
}

fn may_become_integer(said: &[u8], minimum: i64, maximum: i64) -> bool {
    let Some((negative, digits)) = digits(said) else { return false };
    if digits.is_empty() {
        return minimum < 0;
    }
    // -0 is no number of its own.
    if digits == b"0" {
        return !negative && minimum <= 0 && maximum >= 0;
    }
    let value = digits.iter().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
    (0..=MOST_DIGITS - digits.len()).any(|more| {
        let scale = 10_i64.pow(more as u32);
        let (least, most) = (value * scale, value * scale + (scale - 1));
        let (least, most) = if negative { (-most, -least) } else { (least, most) };
        least <= maximum && most >= minimum
    })
}

fn may_become_number(said: &[u8], minimum: f64, maximum: f64) -> bool {
    let Some(point) = said.iter().position(|byte| *byte == b'.') else {
        return may_become_whole_part(said, minimum, maximum);
    };
    let (whole, places) = (&said[..point], &said[point + 1..]);
    let Some((negative, digits)) = digits(whole) else { return false };
    if digits.is_empty() || places.len() > MOST_PLACES || !places.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let magnitude = |tail: u8| -> f64 {
        let mut text = digits.to_vec();
        text.push(b'.');
        text.extend_from_slice(places);
        text.extend(std::iter::repeat_n(tail, MOST_PLACES - places.len()));
        std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    };
    // A point needs a place behind it, which the bounds must leave room for.
    let (least, most) = (magnitude(b'0'), magnitude(b'9'));
    let (least, most) = if negative { (-most, -least) } else { (least, most) };
    reaches(least, most, minimum, maximum)
}

fn may_become_whole_part(said: &[u8], minimum: f64, maximum: f64) -> bool {
    let Some((negative, digits)) = digits(said) else { return false };
    if digits.is_empty() {
        return minimum < 0.0;
    }
    let value = digits.iter().fold(0.0, |value, digit| value * 10.0 + f64::from(digit - b'0'));
    let more = if digits == b"0" { 0 } else { MOST_DIGITS - digits.len() };
    (0..=more).any(|more| {
        let scale = 10_f64.powi(more as i32);
        let (least, most) = (value * scale, value * scale + scale - 1e-6);
        let (least, most) = if negative { (-most, -least) } else { (least, most) };
        reaches(least, most, minimum, maximum)
    })
}

/// Whether the two ranges have a number in common.
fn reaches(least: f64, most: f64, minimum: f64, maximum: f64) -> bool {
    least <= maximum && most >= minimum
}
