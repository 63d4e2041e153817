//! Questions about a picture, and what their answers may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most questions about one picture.
pub const MAX_QUESTIONS: usize = 1000;
/// Most answers that are compared, or values that are allowed.
pub const MAX_CHOICES: usize = 256;
/// Longest text value, in characters.
const MAX_TEXT_CHARS: u32 = 2000;
const MAX_QUESTION_BYTES: usize = 4096;
const MAX_CHOICE_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 64;
/// Whole numbers beyond have no exact place in JSON.
const MAX_WHOLE: i64 = 1 << 53;

/// One question about a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// The question.
    #[schemars(length(min = 1, max = 4096))]
    pub question: String,
    /// Under which name the value stands in the row's `fields`; absent: in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// What the answer may be.
    #[serde(default, skip_serializing_if = "AnswerForm::is_free")]
    pub answer: AnswerForm,
}

/// What an answer may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum AnswerForm {
    /// Whatever the model says until it ends its answer.
    #[default]
    Free,
    /// Whatever the model says, past the end of its answer, up to the limit of tokens: what scripts score that cut
    /// nothing.
    Unended,
    /// The one of these that fits best. Nothing is generated: each is rated as a whole.
    Choices {
        /// The answers that are compared.
        #[schemars(length(min = 1, max = 256))]
        choices: Vec<String>,
    },
    /// One of these, chosen word by word while it is said.
    OneOf {
        /// What may be said.
        #[schemars(length(min = 1, max = 256))]
        values: Vec<String>,
    },
    /// Yes or no.
    Boolean,
    /// A whole number.
    Integer {
        /// The smallest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<i64>,
        /// The largest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<i64>,
    },
    /// A decimal number of at most six places.
    Number {
        /// The smallest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<f64>,
        /// The largest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<f64>,
    },
    /// One line of text.
    Text {
        /// Most characters.
        #[schemars(range(min = 1, max = 2000))]
        max_length: u32,
    },
}

impl AnswerForm {
    /// Whether nothing is said about the answer.
    pub fn is_free(&self) -> bool {
        *self == Self::Free
    }

    /// Whether the answer is yes or no, and the likelier of them is wanted.
    pub fn yes_or_no() -> Self {
        Self::Choices { choices: vec!["yes".to_owned(), "no".to_owned()] }
    }

    /// Keys sorted, absent ones left out.
    fn canonical(&self) -> Value {
        let value = match self {
            Self::Free => json!({"form": "free"}),
            Self::Unended => json!({"form": "unended"}),
            Self::Choices { choices } => json!({"choices": choices, "form": "choices"}),
            Self::OneOf { values } => json!({"form": "one_of", "values": values}),
            Self::Boolean => json!({"form": "boolean"}),
            Self::Integer { minimum, maximum } => {
                json!({"form": "integer", "maximum": maximum, "minimum": minimum})
            }
            Self::Number { minimum, maximum } => {
                json!({"form": "number", "maximum": maximum, "minimum": minimum})
            }
            Self::Text { max_length } => json!({"form": "text", "max_length": max_length}),
        };
        without_nulls(value)
    }

    fn problem(&self) -> Option<&'static str> {
        let texts = match self {
            Self::Free | Self::Unended | Self::Boolean => return None,
            Self::Integer { minimum, maximum } => {
                let whole = |value: i64| (-MAX_WHOLE..=MAX_WHOLE).contains(&value);
                let (least, most) = (minimum.unwrap_or(-MAX_WHOLE), maximum.unwrap_or(MAX_WHOLE));
                return (!whole(least) || !whole(most) || least > most)
                    .then_some("has bounds that leave no whole number, or lie beyond 2^53");
            }
            Self::Number { minimum, maximum } => {
                let bound = |value: &Option<f64>| value.is_none_or(|value| value.abs() <= 1e15);
                let crossed = minimum.zip(*maximum).is_some_and(|(least, most)| least > most);
                return (!bound(minimum) || !bound(maximum) || crossed)
                    .then_some("has bounds that leave no number, or lie beyond 1e15");
            }
            Self::Text { max_length } => {
                return (!(1..=MAX_TEXT_CHARS).contains(max_length))
                    .then_some("has a max_length outside of 1 to 2000");
            }
            Self::Choices { choices: texts } | Self::OneOf { values: texts } => texts,
        };
        let usable = |text: &String| {
            !text.trim().is_empty()
                && text.trim() == text
                && text.len() <= MAX_CHOICE_BYTES
                && !text.contains("###")
                && !text.chars().any(char::is_control)
        };
        if !(1..=MAX_CHOICES).contains(&texts.len()) || !texts.iter().all(usable) {
            return Some(
                "needs 1 to 256 answers of 1 to 256 bytes, without blanks around them, line breaks and ###",
            );
        }
        let mut seen: Vec<&String> = texts.iter().collect();
        seen.sort_unstable();
        seen.windows(2).any(|pair| pair[0] == pair[1]).then_some("names an answer twice")
    }
}

impl Question {
    /// A question with a free answer.
    pub fn free(question: impl Into<String>) -> Self {
        Self { question: question.into(), name: None, answer: AnswerForm::Free }
    }

    /// What decides its answer, as JSON with sorted keys.
    pub(super) fn canonical(&self) -> Value {
        without_nulls(
            json!({"answer": self.answer.canonical(), "name": self.name, "question": self.question}),
        )
    }

    fn problem(&self) -> Option<&'static str> {
        if self.question.trim().is_empty() {
            return Some("is empty");
        }
        if self.question.len() > MAX_QUESTION_BYTES {
            return Some("has more than 4096 bytes");
        }
        let named = |name: &String| {
            !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
        };
        if !self.name.as_ref().is_none_or(named) {
            return Some("has a name that is not 1 to 64 bytes without control characters");
        }
        self.answer.problem()
    }
}

/// What is wrong with the questions about one picture, if anything: which one, and the problem.
pub fn problem_of(questions: &[Question]) -> Option<(usize, &'static str)> {
    if questions.len() > MAX_QUESTIONS {
        return Some((MAX_QUESTIONS, "is one too many: at most 1000 about a picture"));
    }
    let mut names: Vec<&str> = Vec::new();
    for (at, question) in questions.iter().enumerate() {
        if let Some(problem) = question.problem() {
            return Some((at, problem));
        }
        if let Some(name) = question.name.as_deref() {
            if names.contains(&name) {
                return Some((at, "has the name of another one"));
            }
            names.push(name);
        }
    }
    None
}

fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(answer: AnswerForm) -> Option<&'static str> {
        Question { answer, ..Question::free("what?") }.problem()
    }

    #[test]
    fn answers_that_cannot_be_given_are_refused() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(asked(AnswerForm::yes_or_no()), None);
        for bad in [&["a", "a"][..], &[], &[" a"], &["a\nb"], &["a###"], &[""]] {
            assert!(asked(AnswerForm::OneOf { values: texts(bad) }).is_some(), "{bad:?}");
        }
        assert!(asked(AnswerForm::Integer { minimum: Some(3), maximum: Some(2) }).is_some());
        assert!(asked(AnswerForm::Integer { minimum: Some(i64::MIN), maximum: None }).is_some());
        assert!(asked(AnswerForm::Number { minimum: Some(f64::NAN), maximum: None }).is_some());
        assert!(asked(AnswerForm::Text { max_length: 0 }).is_some());
    }

    #[test]
    fn two_values_need_two_names() {
        let named = |name: &str| Question { name: Some(name.to_owned()), ..Question::free("what?") };
        assert_eq!(problem_of(&[named("a"), named("b")]), None);
        assert_eq!(problem_of(&[named("a"), named("a")]).unwrap().0, 1);
    }

    #[test]
    fn reads_like_the_contract_says() {
        let text = r#"{"question":"how many?","name":"count","answer":{"form":"integer","minimum":0}}"#;
        let question: Question = serde_json::from_str(text).unwrap();
        assert_eq!(question.answer, AnswerForm::Integer { minimum: Some(0), maximum: None });
        assert_eq!(serde_json::to_string(&question).unwrap(), text);
        let canonical = r#"{"answer":{"form":"integer","minimum":0},"name":"count","question":"how many?"}"#;
        assert_eq!(question.canonical().to_string(), canonical);
    }
}
