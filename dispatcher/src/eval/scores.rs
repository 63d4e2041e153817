//! What one answer is worth: as the reference's script has it, bugs included, and by the data set's own rule.

use super::sets::Gold;
use captionfleet_world::questions::Question;
use serde::Serialize;

/// A mean with its bounds of 95 % confidence (Wilson), each 0 to 1.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub struct Share {
    /// The mean.
    pub mean: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// The worth of one answer, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worth {
    /// As the reference's `eval_vqa.py` counts it.
    pub reference: f64,
    /// By the data set's own rule.
    pub own: f64,
}

/// Judges what was said, which may go on past the end of the answer.
pub fn worth(gold: &Gold, said: &str) -> Worth {
    let (reference, own) = match gold {
        Gold::Text(text) => {
            (flag(said.to_lowercase().contains(text.as_str())), flag(bare(ended(said)) == bare(text)))
        }
        Gold::Truth(truth) => {
            let label = if *truth { "true" } else { "false" };
            (flag(said.to_lowercase().contains(label)), flag(first_word(said) == label))
        }
        // The script splits the candidates at `|` although they were joined with `_`, so that there is one candidate, the
        // first: only answers that are choice 0 can be right.
        Gold::Choice(choices, right) => (flag(*right == 0), flag(is_choice(choices, *right, said))),
        Gold::People(people) => (people_in_reference(people, ended(said)), people_agree(people, ended(said))),
        Gold::Label(label) => {
            (flag(label_in_reference(said) == Some(*label)), flag(yes_or_no(said) == Some(*label)))
        }
        Gold::Accepted(answers) => {
            let usual = answers.first().map_or("", String::as_str);
            let question = Question { text: String::new(), answers: answers.clone() };
            (flag(said.to_lowercase().contains(usual)), flag(question.accepts(ended(said))))
        }
        Gold::Captions(_) | Gold::Ranked(_) => (0.0, 0.0),
    };
    Worth { reference, own }
}

fn flag(right: bool) -> f64 {
    f64::from(u8::from(right))
}

/// The answer without what was said after its end.
pub fn ended(said: &str) -> &str {
    let answer = said.split("###").next().unwrap_or_default();
    answer.rsplit("Assistant:").next().unwrap_or_default().trim()
}

fn bare(text: &str) -> String {
    text.trim().trim_end_matches('.').trim().to_lowercase()
}

fn first_word(said: &str) -> String {
    let word = ended(said).split(|letter: char| !letter.is_alphanumeric()).find(|word| !word.is_empty());
    word.unwrap_or_default().to_lowercase()
}

fn is_choice(choices: &[String], right: usize, said: &str) -> bool {
    choices.get(right).is_some_and(|choice| choice.trim() == said.trim())
}

/// The ten answers joined with `_` and split there again; an answer that is contained in any, as the empty one is,
/// counts for it.
fn people_in_reference(people: &[String], answer: &str) -> f64 {
    let joined = people.join("_").to_lowercase();
    let answer = answer.to_lowercase();
    let agreeing = joined
        .split('_')
        .filter(|person| *person == answer || answer.contains(person) || person.contains(&answer));
    (agreeing.count() as f64 / 3.0).min(1.0)
}

/// VQA's rule: the mean over all sets of nine people of min(agreeing / 3, 1), after its normalisation.
fn people_agree(people: &[String], answer: &str) -> f64 {
    let answer = normal(answer);
    let agrees: Vec<bool> = people.iter().map(|person| normal(person) == answer).collect();
    let all = agrees.iter().filter(|agrees| **agrees).count();
    let without = |agrees: &bool| ((all - usize::from(*agrees)) as f64 / 3.0).min(1.0);
    if agrees.is_empty() { 0.0 } else { agrees.iter().map(without).sum::<f64>() / agrees.len() as f64 }
}

/// Case, punctuation, articles and number words do not matter.
fn normal(text: &str) -> String {
    const NUMBERS: [&str; 11] =
        ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let words = text.to_lowercase().replace('\'', "");
    let words = words.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.filter(|word| !matches!(*word, "a" | "an" | "the")).map(|word| {
        let number = NUMBERS.iter().position(|number| *number == word);
        number.map_or_else(|| word.to_owned(), |number| number.to_string())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Anywhere in the answer, "yes" first; "no" is also in "not" and "know".
fn label_in_reference(said: &str) -> Option<i64> {
    let answer = ended(said).to_lowercase();
    if answer.contains("yes") {
        return Some(1);
    }
    answer.contains("no").then_some(0)
}

fn yes_or_no(said: &str) -> Option<i64> {
    match first_word(said).as_str() {
        "yes" => Some(1),
        "no" => Some(0),
        _ => None,
    }
}

/// The normal distribution's bound of 95 %.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// Bounds of a share with 95 % confidence, by Wilson's formula.
pub fn wilson(share: f64, count: usize) -> (f64, f64) {
    if count == 0 {
        return (0.0, 1.0);
    }
    let n = count as f64;
    let scale = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(gold: &Gold, said: &str) -> (f64, f64) {
        let Worth { reference, own } = worth(gold, said);
        (reference, own)
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn substrings_count_for_the_reference_alone() {
        let gold = Gold::Text("cat".to_owned());
        assert_eq!(pair(&gold, "cat"), (1.0, 1.0));
        assert_eq!(pair(&gold, "Cat.### more"), (1.0, 1.0));
        assert_eq!(pair(&gold, "a cattle herd"), (1.0, 0.0));
        // What comes after the end counts, because nothing is cut.
        assert_eq!(pair(&gold, "dog###Human: cat"), (1.0, 0.0));
        assert_eq!(pair(&gold, ""), (0.0, 0.0));
        // The label's case is not changed, the answer's is.
        assert_eq!(pair(&Gold::Text("Cat".to_owned()), "Cat"), (0.0, 1.0));
    }

    #[test]
    fn statements_are_true_or_false_by_their_first_word() {
        assert_eq!(pair(&Gold::Truth(true), "True"), (1.0, 1.0));
        assert_eq!(pair(&Gold::Truth(true), "untrue"), (1.0, 0.0));
        assert_eq!(pair(&Gold::Truth(false), "true, not false"), (1.0, 0.0));
    }

    #[test]
    fn the_reference_knows_only_the_first_candidate() {
        let choices = texts(&["red", "blue_green", "red | blue"]);
        assert_eq!(pair(&Gold::Choice(choices.clone(), 1), "blue_green"), (0.0, 1.0));
        assert_eq!(pair(&Gold::Choice(choices, 0), "blue_green"), (1.0, 0.0));
    }

    #[test]
    fn an_empty_answer_is_right_for_the_reference_when_people_are_asked() {
        let people =
            Gold::People(texts(&["dog", "dog", "a dog", "cat", "cat", "", "dog", "dog", "dog", "dog"]));
        assert_eq!(pair(&people, "").0, 1.0);
        assert!((pair(&people, "").1 - 9.0 / 10.0 / 3.0).abs() < 1e-12);
        assert_eq!(pair(&people, "The dog."), (1.0, 1.0));
        // Two of ten: two of nine for eight of them, one for the two themselves.
        assert!((pair(&people, "cat").1 - (8.0 * 2.0 / 3.0 + 2.0 / 3.0) / 10.0).abs() < 1e-12);
        // An answer with `_` in it becomes two people.
        assert!((people_in_reference(&texts(&["x_y", "q", "q"]), "y") - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn no_is_also_in_know() {
        assert_eq!(pair(&Gold::Label(0), "I do not know"), (1.0, 0.0));
        assert_eq!(pair(&Gold::Label(1), "no, yesterday"), (1.0, 0.0));
        assert_eq!(pair(&Gold::Label(0), "maybe"), (0.0, 0.0));
        assert_eq!(pair(&Gold::Label(1), "Yes."), (1.0, 1.0));
    }

    #[test]
    fn wilson_bounds_are_those_of_the_tables() {
        let (low, high) = wilson(0.5, 100);
        assert!((low - 0.4038).abs() < 1e-4 && (high - 0.5962).abs() < 1e-4);
        let (low, high) = wilson(1.0, 10);
        assert!((low - 0.7225).abs() < 1e-4 && (high - 1.0).abs() < 1e-12);
    }
}
